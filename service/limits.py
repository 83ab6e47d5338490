"""Bounds on what a client may send: bytes, time, uploads at once."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.types import Receive

from service.refusals import BodyTooLarge, BodyTooSlow, ClientGone, MalformedRequest, UploadsBusy


async def read_body(
    receive: Receive, headers: Headers, limit_bytes: int, limit_s: float, *, reserve: bool = False
) -> bytes:
    """Read a request's body, giving up at the first byte too many.

    The one copy of the body is the one returned: BytesIO grows a bytes object in place and hands that object out.

    Args:
        receive: the ASGI channel of a request whose body nobody has read.
        headers: of the request; a Content-Length over the limit is refused before anything is read.
        limit_bytes: most bytes accepted.
        limit_s: most seconds until the last byte.
        reserve: take the announced size at once, because growing may copy; only for a caller that bounds how many
            read at the same time, since a stranger can announce what it never sends.

    Raises:
        BodyTooLarge: more bytes than the limit, announced or sent.
        BodyTooSlow: the body was not complete in time.
        ClientGone: the client left.
        MalformedRequest: a Content-Length that is no number.
    """
    announced = headers.get("content-length")
    if announced is not None:
        if not announced.isascii() or not announced.isdecimal():
            raise MalformedRequest("Content-Length must be a number of bytes")
        announced = announced.lstrip("0") or "0"  # so that its first digits say how large it is
        _refuse_past(int(announced[:20]), limit_bytes)
    body = io.BytesIO()
    if reserve and announced is not None:
        _reserve(body, int(announced))
    try:
        async with asyncio.timeout(limit_s):
            while await _read_part(receive, body, limit_bytes):
                pass
    except TimeoutError:
        raise BodyTooSlow(f"the body was not complete within {limit_s:g} s") from None
    body.truncate()
    return body.getvalue()


class UploadGate:
    """Lets a fixed number of uploads hold memory at once; the next one is told to come back.

    Args:
        places: uploads in flight, from their first byte until this replica is done with the body.
        retry_after_s: what a refused client is told.
    """

    def __init__(self, places: int, retry_after_s: float = 1.0) -> None:
        self._places = places
        self._taken = 0
        self._retry_after_s = retry_after_s

    @contextmanager
    def upload(self) -> Iterator[None]:
        """Hold one place.

        Raises:
            UploadsBusy: every place is taken.
        """
        if self._taken >= self._places:
            raise UploadsBusy(f"{self._taken} uploads are in flight; try again shortly", self._retry_after_s)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


async def _read_part(receive: Receive, body: io.BytesIO, limit_bytes: int) -> bool:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone("the client left before its body was complete")
    part: bytes = message.get("body", b"")
    _refuse_past(body.tell() + len(part), limit_bytes)
    body.write(part)
    more: bool = message.get("more_body", False)
    return more


def _reserve(body: io.BytesIO, size_bytes: int) -> None:
    if size_bytes > 0:
        body.seek(size_bytes - 1)
        body.write(b"\0")
        body.seek(0)


def _refuse_past(size_bytes: int, limit_bytes: int) -> None:
    if size_bytes > limit_bytes:
        raise BodyTooLarge(f"the body is larger than the {limit_bytes:,} bytes that this route takes")
