"""Laws of MultiLoRA's short claims: none holds or falls short for nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from adapters_store.file import FileBackend
from adapters_store.store import AdapterStore
from benchmarks.claims.multilora_calibration import held
from benchmarks.claims.multilora_fleet import NATURAL, live_in


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
