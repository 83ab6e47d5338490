"""A feed made of listings: paced, shared by all who wait, and never behind what it says."""

from __future__ import annotations

import asyncio

from adapters_store.polling import PollingFeed


class Listing:
    """Versions that a test sets, and how often they were asked for."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.looks = 0

    async def __call__(self) -> dict[str, str]:
        """List."""
        self.looks += 1
        await asyncio.sleep(0)
        return dict(self.held)


async def test_new_changed_and_removed_records_are_told() -> None:
    """Law: whatever differs between two listings is named once, from any position behind it."""
    listing = Listing()
    listing.held = {"a": "1", "b": "1", "c": "1"}
    feed = PollingFeed(listing, 0.001)
    began = await feed.changes(None, 0.0)
    assert began.resync
    listing.held = {"a": "2", "c": "1", "d": "1"}
    answer = await feed.changes(began.position, 5.0)
    assert (answer.keys, answer.resync) == (frozenset({"a", "b", "d"}), False)
    listing.held["c"] = "2"
    assert (await feed.changes(answer.position, 5.0)).keys == {"c"}
    assert (await feed.changes(began.position, 5.0)).keys == {"a", "b", "c", "d"}


async def test_store_at_rest_is_listed_at_its_pace() -> None:
    """Law: however many wait and ask, the store is listed once a pace, and waiting ends in time."""
    listing = Listing()
    feed = PollingFeed(listing, 60.0)
    began = await feed.changes(None, 0.0)
    assert listing.looks == 1
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*(feed.changes(began.position, 0.02) for _ in range(20)))
    assert {(answer.keys, answer.position) for answer in answers} == {(frozenset(), began.position)}
    assert listing.looks == 1


async def test_position_of_another_start_asks_for_everything() -> None:
    """Law: numbers of another feed mean nothing here; asking with one gives a position from which nothing is missed."""
    listing = Listing()
    first, second = PollingFeed(listing, 0.001), PollingFeed(listing, 0.001)
    foreign = (await first.changes(None, 0.0)).position
    answer = await second.changes(foreign, 5.0)
    assert answer.resync
    listing.held["a"] = "1"
    assert (await second.changes(answer.position, 5.0)).keys == {"a"}


async def test_failed_listing_is_told_and_the_next_one_misses_nothing() -> None:
    """Law: a listing that fails loses no change."""
    listing = Listing()
    failing = [True]

    async def versions() -> dict[str, str]:
        if failing[0] and listing.looks:
            raise OSError("away")
        return await listing()

    feed = PollingFeed(versions, 0.001)
    began = await feed.changes(None, 0.0)
    listing.held["a"] = "1"
    for _ in range(2):
        try:
            await feed.changes(began.position, 5.0)
        except OSError:
            continue
        raise AssertionError("the listing failed, which was not told")
    failing[0] = False
    assert (await feed.changes(began.position, 5.0)).keys == {"a"}
