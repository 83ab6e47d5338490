"""Laws of taking feedback: acknowledged means on disk, together is cheaper, nothing is taken in silence or in part."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from service.feedback.errors import FeedbackBusy, FeedbackFailed, FeedbackFull
from service.feedback.journal import Taken
from tests.service.feedback.parts import BACKBONE, NOW, REVISION, desk, event, lines_of, result


async def test_a_line_says_what_was_sent_and_what_was_scored(tmp_path: Path) -> None:
    """Law: a matched line carries user, domain, score, revision and context of the response; ids are strings."""
    with desk(tmp_path / "f") as one:
        one.recent.remember(result("r", [0.25, 0.75], alias="canary"), 42, [5, 6], {"hour": 3}, 100)
        taken = await one.journal.append(
            [event(6, 1, request_id="r"), event("x", 0, user_id=1, domain_id="men")], "app"
        )
        assert taken == Taken(2, 1)
        matched, other = one.lines()
    assert matched == {
        "schema": 1,
        "at": NOW,
        "item_id": "6",
        "label": 1,
        "request_id": "r",
        "user_id": "42",
        "domain_id": "women",
        "by": "app",
        "matched": True,
        "score": 0.75,
        "backbone": BACKBONE,
        "revision": REVISION,
        "alias": "canary",
        "context": {"hour": 3},
    }
    assert other == {
        "schema": 1,
        "at": NOW,
        "item_id": "x",
        "label": 0,
        "user_id": "1",
        "domain_id": "men",
        "by": "app",
    }


async def test_acknowledgement_waits_for_the_sync(tmp_path: Path) -> None:
    """Law: nothing is acknowledged before the sync of its bytes has returned; what waits meanwhile shares the next."""
    begun, may_end, syncs = asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()

    def slow(descriptor: int) -> None:
        syncs.append(descriptor)
        loop.call_soon_threadsafe(begun.set)
        assert may_end.wait(30)
        os.fsync(descriptor)

    with desk(tmp_path / "f", sync=slow) as one:
        first = asyncio.create_task(one.journal.append([event("a", user_id=1, domain_id="d")], "app"))
        await begun.wait()
        others = [
            asyncio.create_task(one.journal.append([event("b", user_id=1, domain_id="d")], "app")) for _ in range(50)
        ]
        done, _ = await asyncio.wait([first, *others], timeout=0.05)
        assert not done
        may_end.set()
        assert await asyncio.gather(first, *others) == [Taken(1, 0)] * 51
        assert len(syncs) == 2
        assert len(one.lines()) == 51


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
async def test_a_disk_that_refuses_is_told_and_left(tmp_path: Path, fault: int) -> None:
    """Law: a failed sync acknowledges nothing of its batch, and the next events go to another segment."""
    failing = [True]

    def sync(descriptor: int) -> None:
        if failing[0]:
            raise OSError(fault, os.strerror(fault))
        os.fsync(descriptor)

    with desk(tmp_path / "f", sync=sync) as one:
        with pytest.raises(FeedbackFailed, match=os.strerror(fault)):
            await one.journal.append([event("a", user_id=1, domain_id="d")], "app")
        failing[0] = False
        assert await one.journal.append([event("b", user_id=1, domain_id="d")], "app") == Taken(1, 0)
        assert sorted(segment.named.state for segment in one.folder.segments()) == ["open", "open"]
        assert one.folder.close_orphans() == 1
        assert one.metric('espalier_feedback_events_total{outcome="refused"}') == "1.0"


async def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path) -> None:
    """Law: past the bound every request is refused as full, what was acknowledged stays, and room lets it go on."""
    with desk(tmp_path / "f", keep_bytes=20_000, segment_bytes=2000) as one:
        taken = 0

        async def fill() -> None:
            nonlocal taken
            while taken < 10_000:
                taken += (await one.journal.append([event("a", user_id=1, domain_id="d")] * 5, "app")).accepted

        with pytest.raises(FeedbackFull, match=r"20,000 bytes .* feedback_dir"):
            await fill()
        sizes = [segment.size_bytes for segment in one.folder.segments()]
        assert 18_000 < sum(sizes) <= 20_000
        assert len(one.lines()) == taken
        with pytest.raises(FeedbackFull):
            await one.journal.append([event("a", user_id=1, domain_id="d")] * 5, "app")
        oldest = one.folder.segments()[0]
        one.folder.mark_shipped(oldest)
        assert await one.journal.append([event("a", user_id=1, domain_id="d")] * 5, "app") == Taken(5, 0)
        assert oldest.named.name not in {segment.named.name for segment in one.folder.segments()}


async def test_of_a_batch_what_fits_is_taken(tmp_path: Path) -> None:
    """Law: one request that does not fit does not refuse others that wait with it."""
    with desk(tmp_path / "f", keep_bytes=1000) as one:
        small, large = [event("a", user_id=1, domain_id="d")], [event("b" * 200, user_id=1, domain_id="d")] * 10
        ends = await asyncio.gather(
            *(one.journal.append(each, "app") for each in (small, large, small)), return_exceptions=True
        )
        assert [type(end) for end in ends] == [Taken, FeedbackFull, Taken]
        assert len(one.lines()) == 2


async def test_more_than_may_wait_is_refused_at_once(tmp_path: Path) -> None:
    """Law: while the disk is slow, waiting events are bounded; the refused are told to come back."""
    may_end = threading.Event()

    def slow(descriptor: int) -> None:
        assert may_end.wait(30)

    with desk(tmp_path / "f", sync=slow, waiting_events=10) as one:
        waiting = [
            asyncio.create_task(one.journal.append([event("a", user_id=1, domain_id="d")] * 5, "app")) for _ in "ab"
        ]
        await asyncio.sleep(0)
        with pytest.raises(FeedbackBusy, match="10 events"):
            await one.journal.append([event("a", user_id=1, domain_id="d")], "app")
        may_end.set()
        assert await asyncio.gather(*waiting) == [Taken(5, 0)] * 2
        await one.journal.append([event("a", user_id=1, domain_id="d")] * 50, "app")


async def test_a_client_that_left_spoils_nothing(tmp_path: Path) -> None:
    """Law: cancelling one waiter leaves the batch and the other waiters alone."""
    may_end = threading.Event()

    def slow(descriptor: int) -> None:
        assert may_end.wait(30)

    with desk(tmp_path / "f", sync=slow) as one:
        tasks = [asyncio.create_task(one.journal.append([event("a", user_id=1, domain_id="d")], "app")) for _ in "abc"]
        await asyncio.sleep(0)
        tasks[1].cancel()
        may_end.set()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(end, Taken) for end in ends] == [True, False, True]
        assert len(one.lines()) == 3


async def test_matched_events_feed_the_online_figures_once(tmp_path: Path) -> None:
    """Law: a row's first label counts, of live rows only; every event counts by outcome."""
    with desk(tmp_path / "f") as one:
        live, canary = result("r", [0.9, 0.1] * 60, "women"), result("c", [0.9] * 120, "women", alias="canary")
        for each in (live, canary):
            one.recent.remember(each, 7, list(range(120)), None, 100)
        one.online.scored(one.recent.take_fresh())
        events = [event(place, int(place % 2 == 0), request_id="r") for place in range(120)]
        await one.journal.append(events, "app")
        await one.journal.append(events, "app")
        await one.journal.append([event(place, 0, request_id="c") for place in range(120)], "app")
        await one.journal.append([event(0, 0, request_id="r", user_id=8, domain_id="women")], "app")
        figures = one.online.figures()["women"]
        assert figures.auc == 1.0
        assert figures.calibration_ratio == pytest.approx(60 / (60 * 0.9 + 60 * 0.1))
        assert one.metric('espalier_feedback_events_total{outcome="matched"}') == "360.0"
        assert one.metric('espalier_feedback_events_total{outcome="contradicting"}') == "1.0"


async def test_a_restart_after_a_torn_tail_goes_on(tmp_path: Path) -> None:
    """Law: after a crash in the middle of a line, a new process closes the segment and loses no whole line."""
    with desk(tmp_path / "f") as one:
        await one.journal.append([event("a", user_id=1, domain_id="d")] * 3, "app")
        torn = one.folder.segments()[0].path
    with torn.open("ab") as file:
        file.write(b'{"schema":1,"at":17')
    with desk(tmp_path / "f") as two:
        assert two.folder.close_orphans() == 1
        two.now[0] += 1
        await two.journal.append([event("b", user_id=1, domain_id="d")], "app")
    assert [line["item_id"] for line in lines_of(tmp_path / "f")] == ["a", "a", "a", "b"]
