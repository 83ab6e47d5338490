"""`WorkerThread`: what it runs, and what it lets go."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Iterator
from functools import partial

import pytest

from service.threads import WorkerThread


class Body(bytearray):
    """Bytes that can be referenced weakly."""


@pytest.fixture
def thread() -> Iterator[WorkerThread]:
    """One that is closed at the end."""
    made = WorkerThread("espalier-test")
    yield made
    made.close()


async def test_results_and_errors_come_back(thread: WorkerThread) -> None:
    """Law: the caller gets what the call returned or raised."""
    assert await thread.run(lambda: threading.current_thread().name) == "espalier-test_0"
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 // 0)


@pytest.mark.parametrize("work", [len, int], ids=["returns", "raises"])
async def test_a_body_is_gone_when_its_call_has_ended(thread: WorkerThread, work: type[int]) -> None:
    """Law: an idle thread holds nothing of its last call, so an upload's bytes leave with the upload."""
    body = Body(b"x")
    seen = weakref.ref(body)
    call = asyncio.create_task(thread.run(partial(work, body)))
    del body
    await asyncio.wait({call})
    call.exception()
    del call
    await thread.run(threading.get_ident)  # the thread has left the first call for certain
    assert seen() is None


async def test_a_call_that_is_cancelled_in_the_queue_is_let_go_at_once(thread: WorkerThread) -> None:
    """Law: a publish that was given up does not hold its body until the thread is free."""
    free = threading.Event()
    blocking = asyncio.create_task(thread.run(free.wait))
    body = Body(b"x")
    seen = weakref.ref(body)
    waiting = asyncio.create_task(thread.run(partial(len, body)))
    del body
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    del waiting
    held = seen() is not None
    free.set()
    await blocking
    assert not held
