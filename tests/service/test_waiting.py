"""The bounded wait for a change."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from service.routes.waiting import BoundedWait


async def test_what_ends_in_time_is_returned_or_raised() -> None:
    """Law: within the wait a change's result and its error are the caller's; the place is free by then."""
    freed: list[str] = []

    async def change(error: Exception | None = None) -> int:
        if error is not None:
            raise error
        return 3

    bounded = BoundedWait(60)
    with ExitStack() as place:
        place.callback(freed.append, "first")
        assert await bounded.within(change(), place.pop_all().close) == 3
    assert freed == ["first"]
    with pytest.raises(ValueError, match="lost"):
        await bounded.within(change(ValueError("lost")))


@pytest.mark.parametrize("error", [None, ValueError("lost")])
async def test_what_takes_longer_goes_on_and_holds_its_place(error: Exception | None) -> None:
    """Law: None says that it is pending; it still ends, and only then lets go of what it holds."""
    freed: list[str] = []
    going, ended = asyncio.Event(), asyncio.Event()

    async def change() -> int:
        await going.wait()
        ended.set()
        if error is not None:
            raise error
        return 3

    with ExitStack() as place:
        place.callback(freed.append, "place")
        assert await BoundedWait(0).within(change(), place.pop_all().close) is None
    assert freed == []
    going.set()
    await ended.wait()
    await asyncio.sleep(0)
    assert freed == ["place"]
