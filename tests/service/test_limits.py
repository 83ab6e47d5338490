"""Limits on what a client may send: bytes, time, uploads at once."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest
from starlette.datastructures import Headers
from starlette.types import Message

from service.limits import UploadGate, read_body
from service.refusals import BodyTooLarge, BodyTooSlow, ClientGone, MalformedRequest, UploadsBusy


def sending(*parts: bytes, end: str = "http.request") -> tuple[Callable[[], Awaitable[Message]], list[bytes]]:
    """A client that sends these parts, then completes its body or leaves; and the parts taken so far."""
    messages: list[Message] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": end, "body": b"", "more_body": False})
    taken: list[bytes] = []

    async def receive() -> Message:
        message = messages.pop(0)
        taken.append(message["body"])
        return message

    return receive, taken


async def never() -> Message:
    """A client that says nothing."""
    return await asyncio.get_running_loop().create_future()


async def test_a_body_is_what_was_sent() -> None:
    """Parts are joined in order."""
    receive, _ = sending(b"ab", b"", b"cd")
    assert await read_body(receive, Headers(), 4, 1.0) == b"abcd"


async def test_an_announced_size_over_the_limit_is_refused_before_anything_is_read() -> None:
    """Content-Length is believed when it is too large."""
    receive, taken = sending(b"abcde")
    with pytest.raises(BodyTooLarge, match="4 bytes"):
        await read_body(receive, Headers({"content-length": "5"}), 4, 1.0)
    assert taken == []


async def test_a_body_is_refused_at_the_first_byte_too_many() -> None:
    """Whatever was announced, nothing is taken past the limit."""
    receive, taken = sending(b"abc", b"de", b"fg")
    with pytest.raises(BodyTooLarge):
        await read_body(receive, Headers({"content-length": "3"}), 4, 1.0)
    assert taken == [b"abc", b"de"]


@pytest.mark.parametrize("announced", ["-1", "1e3", "0x5", "²", "ten", ""])
async def test_a_content_length_that_is_no_number_is_refused(announced: str) -> None:
    """The header is a decimal number of bytes."""
    receive, _ = sending(b"")
    with pytest.raises(MalformedRequest):
        await read_body(receive, Headers(raw=[(b"content-length", announced.encode("latin-1"))]), 4, 1.0)


async def test_an_absurd_content_length_is_too_large() -> None:
    """Thousands of digits cost nothing."""
    receive, _ = sending(b"")
    with pytest.raises(BodyTooLarge):
        await read_body(receive, Headers({"content-length": "9" * 5000}), 4, 1.0)


@pytest.mark.parametrize("announced", ["0" * 20 + "400000000", "0" * 5000 + "5"])
async def test_zeros_in_front_hide_no_size(announced: str) -> None:
    """A padded Content-Length is refused like its number, before a byte is reserved."""
    receive, taken = sending(b"")
    with pytest.raises(BodyTooLarge):
        await read_body(receive, Headers({"content-length": announced}), 4, 1.0, reserve=True)
    assert taken == []


async def test_a_client_that_does_not_send_is_given_up() -> None:
    """Time is bounded as well as bytes."""
    with pytest.raises(BodyTooSlow):
        await read_body(never, Headers(), 4, 0.0)


async def test_a_client_that_leaves_has_sent_nothing() -> None:
    """Half a body is none."""
    receive, _ = sending(b"ab", end="http.disconnect")
    with pytest.raises(ClientGone):
        await read_body(receive, Headers(), 4, 1.0)


@pytest.mark.parametrize("announced", ["3", "7", "16"])
async def test_a_reserved_body_is_what_was_sent_whatever_was_announced(announced: str) -> None:
    """The announced size is a place to write to, never content."""
    receive, _ = sending(b"abc", b"defg")
    assert await read_body(receive, Headers({"content-length": announced}), 16, 1.0, reserve=True) == b"abcdefg"


@pytest.mark.parametrize("reserve", [False, True])
async def test_reading_holds_one_copy_of_the_body(reserve: bool) -> None:
    """The buffer that is filled is the body that is handed out: well below two bodies at the peak."""
    size_bytes, part = 16 << 20, bytes(64 << 10)
    sent = 0

    async def receive() -> Message:
        nonlocal sent
        sent += len(part)
        return {"type": "http.request", "body": part, "more_body": sent < size_bytes}

    tracemalloc.start()
    try:
        headers = Headers({"content-length": str(size_bytes)})
        body = await read_body(receive, headers, size_bytes, 60.0, reserve=reserve)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(body) == size_bytes
    assert peak_bytes < 1.3 * size_bytes


def test_a_gate_lets_so_many_in_and_tells_the_next_to_come_back() -> None:
    """Only the places that there are are taken."""
    gate = UploadGate(2, retry_after_s=3.0)
    with gate.upload(), gate.upload(), pytest.raises(UploadsBusy) as refusal, gate.upload():
        pass
    assert refusal.value.retry_after_s == 3.0


def test_a_place_is_free_again_when_its_upload_ends_however_it_ends() -> None:
    """A refused or broken upload keeps no place."""
    gate = UploadGate(1)
    with pytest.raises(ZeroDivisionError), gate.upload():
        raise ZeroDivisionError
    with gate.upload():
        pass
