"""What a watched store tells of its calls."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from adapters_store.backend import Backend
from adapters_store.canonical import digest
from adapters_store.errors import BlobMissing, MalformedRecord, StoreError, StoreUnavailable
from adapters_store.memory import MemoryBackend
from adapters_store.timed import TimedBackend
from tests.adapters_store.contract import BackendContract, Open


class Ticking:
    """Seconds that pass by one with each look."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        """One second later than before."""
        self._now += 1.0
        return self._now


class Ailing(MemoryBackend):
    """Fails reads of records with what it is given, or never answers."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self._error = error

    async def read_record(self, key: str) -> Any:
        """See Backend."""
        if self._error is None:
            await asyncio.Event().wait()
        assert self._error is not None
        raise self._error


class Calls:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, float, BaseException | None]] = []

    def __call__(self, operation: str, seconds: float, error: BaseException | None) -> None:
        """A call ended."""
        self.told.append((operation, seconds, error))


class TestTimed(BackendContract):
    """Watching changes nothing of what a backend does."""

    @pytest.fixture
    def open_backend(self) -> Open:
        """The one object, watched anew each time."""
        backend = MemoryBackend()
        return lambda: TimedBackend(backend, lambda operation, seconds, error: None)


async def test_each_call_is_told_with_its_time() -> None:
    """Law: name of the method, seconds, no error; keys and digests are not told."""
    calls = Calls()
    backend = TimedBackend(MemoryBackend(), calls, Ticking())
    await backend.put_blob(digest(b"a"), b"a")
    await backend.read_record("domain/women")
    assert calls.told == [("put_blob", 1.0, None), ("read_record", 1.0, None)]


def test_every_method_of_a_backend_is_passed_on() -> None:
    """Law: one that is added to the interface and forgotten here, where a default would answer for it, fails here."""
    named = {name for name, _ in inspect.getmembers(Backend, inspect.iscoroutinefunction)}
    assert len(named) > 15
    assert named <= vars(TimedBackend).keys()


@pytest.mark.parametrize("error", [StoreUnavailable("down"), RuntimeError("a fault of ours")])
async def test_a_failure_is_told_and_raised(error: Exception) -> None:
    """Law: the caller gets the error as it is, and so does who watches."""
    calls = Calls()
    with pytest.raises(type(error)):
        await TimedBackend(Ailing(error), calls, Ticking()).read_record("domain/women")
    assert calls.told == [("read_record", 1.0, error)]


@pytest.mark.parametrize("error", [BlobMissing("ab" * 32), MalformedRecord("no JSON")])
async def test_what_the_store_answers_is_no_failure(error: StoreError) -> None:
    """Law: that something is not there, or is damaged, says nothing against the store's reach."""
    calls = Calls()
    with pytest.raises(type(error)):
        await TimedBackend(Ailing(error), calls, Ticking()).read_record("domain/women")
    assert calls.told == [("read_record", 1.0, None)]


async def test_a_call_that_is_given_up_is_not_told() -> None:
    """Law: a caller's end, such as a replica that stops, is neither a time nor a failure of the store."""
    calls = Calls()
    backend = TimedBackend(Ailing(None), calls, Ticking())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(backend.read_record("domain/women"), 0.01)
    assert calls.told == []
