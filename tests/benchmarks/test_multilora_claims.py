"""Laws of MultiLoRA's short claims: none holds or falls short for nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from adapters_store.file import FileBackend
from adapters_store.store import AdapterStore
from benchmarks.claims import multilora
from benchmarks.claims.book import Book
from benchmarks.claims.multilora_calibration import held
from benchmarks.claims.multilora_fleet import MET, NATURAL, Spent, compared, key_of, live_in, spent
from benchmarks.claims.multilora_leftout import BOTH, FULL_TUNE, recovered
from benchmarks.claims.multilora_table import not_below
from benchmarks.claims.workplace import Workplace
from training.trials.kept import KeptResults


def calibration(before: float, after: float, reasons: tuple[str | None, ...]) -> dict[str, Any]:
    """What a report says of calibration."""
    pooled = {name: {"ece": ece, "copc": 1.0, "log_loss": 0.5} for name, ece in (("before", before), ("after", after))}
    return {"pooled": pooled, "domains": {str(i): {"fitted": {"reason": r}} for i, r in enumerate(reasons)}}


@pytest.mark.parametrize(
    ("found", "verdicts"),
    [
        (calibration(0.01234561, 0.01234561, (None, "few rows")), ["holds", "holds"]),
        (calibration(0.01234549, 0.01234549, (None,)), ["holds", "holds"]),
        (calibration(0.0123, 0.0124, (None,)), ["falls short", "holds"]),
        (calibration(0.0123, 0.0123, ("few rows", "few rows")), ["holds", "falls short"]),
    ],
)
def test_calibration_is_compared_with_itself_digit_by_digit(found: dict[str, Any], verdicts: list[str]) -> None:
    """Law: an error that stays as it is is not above what it was; where nothing was fitted, nothing is shown."""
    lines = list(held("a world", found))
    assert [line.verdict for line in lines] == [*verdicts, "measured"]


async def test_what_is_live_is_counted_in_the_store(tmp_path: Path) -> None:
    """Law: natural domains whose record names a live revision; neither auxiliaries nor domains that were deleted."""
    store = AdapterStore(FileBackend(tmp_path, create=True), time.time)
    revision = await store.put(b"an adapter")
    for domain, division in (("a", NATURAL), ("b", NATURAL), ("c", NATURAL), ("d", "segment")):
        await store.set_live(domain, division, revision, "a test")
    await store.delete("b", "a test")
    await store.close()
    assert await live_in(tmp_path, NATURAL) == 2


FLEET = Spent(domains=40, rows=900, seconds=30.0, peak_bytes=10**9, artifact_bytes=10**6, published=40, passed=7)


def test_a_fleet_that_one_command_does_not_make_live_falls_short() -> None:
    """Law: time, memory and bytes are held to what was stated, and every domain must be live in the store."""
    stated = {name: float(getattr(FLEET, name)) for name in MET}
    assert [line.verdict for line in compared(stated, FLEET)] == ["holds"] * 4 + ["measured"]
    missing = list(compared(stated, replace(FLEET, published=39, seconds=40.0)))
    assert [line.verdict for line in missing] == ["falls short", "holds", "holds", "falls short", "measured"]


def test_a_finished_fleet_is_reused(tmp_path: Path) -> None:
    """Law: with --reuse what a fleet of the same size and settings took is taken; nothing is trained."""
    KeptResults(tmp_path / "fleet-kept").put(key_of(FLEET.domains), asdict(FLEET))
    assert spent(Workplace(tmp_path, reuse=True), FLEET.domains) == FLEET
    assert [path.name for path in tmp_path.iterdir()] == ["fleet-kept"]


@pytest.mark.parametrize(
    ("zero", "both", "whole", "share"),
    [
        ((0.70, 0.72), (0.75, 0.77), (0.80, 0.82), 0.5),
        ((0.70, 0.80), (0.70, 0.81), (0.70, 0.82), 0.5),  # one seed has no way to go, the mean has
        ((0.80, 0.80), (0.78, 0.78), (0.79, 0.79), math.nan),
        ((0.80, 0.80), (0.81, 0.81), (0.80, 0.80), math.nan),
    ],
)
def test_the_way_is_that_of_the_means(
    zero: Sequence[float], both: Sequence[float], whole: Sequence[float], share: float
) -> None:
    """Law: (both - zero) / (whole - zero) of the means; a fine-tune that gains nothing leaves nothing to recover."""
    seeds = [{"zero-shot": z, BOTH: b, FULL_TUNE: w} for z, b, w in zip(zero, both, whole, strict=True)]
    assert recovered(seeds) == pytest.approx(share, nan_ok=True)


@pytest.mark.parametrize(
    ("ours", "theirs", "margin", "verdict"),
    [
        ((0.7, 0.6, 0.8), (0.7, 0.6, 0.8), 0.01, "holds"),
        ((0.7, 0.6, 0.8), (0.71, 0.58, 0.82), 0.1, "holds"),
        ((0.7, 0.6, 0.8), (0.71, 0.58, 0.82), 0.01, "falls short"),  # three domains do not show so little
        ((0.60, 0.61, 0.59), (0.70, 0.70, 0.70), 0.1, "falls short"),
        ((None, 0.6, 0.8), (0.7, None, 0.8), 0.5, "falls short"),
    ],
)
def test_equal_metrics_are_shown_within_a_margin(
    ours: Sequence[float | None], theirs: Sequence[float | None], margin: float, verdict: str
) -> None:
    """Law: what may be lower by more than the margin falls short, and so does what too few domains have."""
    assert not_below("a domain", ours, theirs, margin).verdict == verdict


def test_the_short_lines_have_a_time_and_the_long_ones_a_cost() -> None:
    """Law: all groups together are held to 45 minutes; every long table is named before anything is run."""
    book = Book("multilora", multilora.GROUPS, "", multilora.SHORT_MIN)
    assert [book.in_all(60 * minutes).verdict for minutes in (44.9, 45.1)] == ["holds", "falls short"]
    for group in ("multilora_fleet", "multilora_leftout", "multilora_movielens", "multilora_epinions"):
        assert group in multilora.GROUPS
        assert group in multilora.cost()
