"""Laws of parts: each runs in a process of its own, and what it found comes back whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bench.domains import MANY, ONE, Domains
from benchmarks.bench.part import Asked, measured
from benchmarks.claims.workplace import ClaimError


def test_a_part_measures_in_small_sizes(tmp_path: Path) -> None:
    """Law: a part of the quick form runs through and gives ratios, or says what is missing."""
    found = measured(Asked("in_a_batch", quick=True), Domains, tmp_path)
    assert (found.shape, found.precision) == ("MovieLens", "fp32")
    if found.trial is None:
        assert "espalier-kernels" in found.absent
    else:
        assert found.trial.names == [ONE, MANY]
        assert found.trial.ratio(ONE, MANY).median > 0


def test_a_part_that_breaks_tells_why(tmp_path: Path) -> None:
    """Law: the end of its log comes with the error."""
    with pytest.raises(ClaimError, match="KeyError"):
        measured(Asked("no such part"), Domains, tmp_path)
