"""Laws of the caretaker: what was scored becomes figures, segments are closed in time, a fault ends nothing."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import numpy as np

from service.aggregation import Registry, exposition
from service.feedback.metrics import FeedbackMetrics
from service.feedback.online import CURRENT_ROWS, REFERENCE_ROWS
from service.feedback.room import FIGURES_S, ORPHANS_S, TEND_S, Caretaker
from tests.service.clockwork import ManualClock, turns_until
from tests.service.feedback.parts import Desk, desk, event, result, silent


def caretaker_of(one: Desk, clock: ManualClock, registry: Registry) -> Caretaker:
    metrics = FeedbackMetrics(registry, 1 << 30)
    return Caretaker(one.folder, one.writer, one.recent, one.online, metrics, clock, silent())


async def test_scores_become_figures_and_bytes_are_counted(tmp_path: Path) -> None:
    """Law: what scoring remembered is looked at each round, and shown every ten seconds with what is unshipped."""
    with desk(tmp_path / "f") as one:
        clock, registry, rng = ManualClock(), Registry(), np.random.default_rng(0)
        caretaker = caretaker_of(one, clock, registry)
        caretaker.tend()
        for number in range((REFERENCE_ROWS + CURRENT_ROWS) // 1000):
            one.recent.remember(result(f"r{number}", rng.random(1000)), 7, list(range(1000)), None, 100)
        await one.journal.append([event("a", user_id=1, domain_id="d")], "app")
        await clock.advance(FIGURES_S - 1)
        caretaker.tend()
        assert "espalier_score_psi{" not in exposition(registry.families()).decode()
        await clock.advance(1)
        caretaker.tend()
        shown = exposition(registry.families()).decode()
        assert 'espalier_score_psi{domain="women"}' in shown
        assert f"espalier_feedback_unshipped_bytes {float(one.folder.segments()[0].size_bytes)}" in shown


async def test_segments_close_by_age_without_traffic_and_orphans_in_time(tmp_path: Path) -> None:
    """Law: an old segment is closed although nothing comes; what a dead process leaves, within half a minute."""
    with desk(tmp_path / "f", segment_s=60) as one:
        clock = ManualClock()
        caretaker = caretaker_of(one, clock, Registry())
        await one.journal.append([event("a", user_id=1, domain_id="d")], "app")
        caretaker.tend()
        orphan = one.folder.path / "20251121T172000000Z-dead-00000001.open.ndjson"
        orphan.write_bytes(b"{}\n")
        one.now[0] += 60
        caretaker.tend()
        assert sorted(segment.named.state for segment in one.folder.segments()) == ["closed", "open"]
        await clock.advance(ORPHANS_S)
        caretaker.tend()
        assert [segment.named.state for segment in one.folder.segments()] == ["closed", "closed"]


async def test_a_fault_ends_no_round_but_its_own(tmp_path: Path) -> None:
    """Law: a disk that refuses, or a fault of ours, is logged, and the next round comes."""
    with desk(tmp_path / "f") as one:
        clock, calls = ManualClock(), []

        def complete() -> None:
            calls.append(1)
            raise OSError(5, "no") if len(calls) == 1 else ValueError("a fault of ours")

        caretaker = Caretaker(
            *(
                one.folder,
                one.writer,
                one.recent,
                one.online,
                FeedbackMetrics(Registry(), 1 << 30),
                clock,
                silent(),
                complete,
            )
        )
        running = asyncio.create_task(caretaker.run(one.thread))
        for rounds in range(1, 4):
            await turns_until(lambda rounds=rounds: len(calls) == rounds and clock.waiting == 1)  # type: ignore[misc]
            await clock.advance(TEND_S)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
