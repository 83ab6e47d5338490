"""Laws of batch invariance: what company does to a score is seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store.folding import Folded
from benchmarks.bench.company import compared
from features.rows import EncodedRows
from service.engine import Prepared, Segment


class Swayed:
    """An engine whose logits move with the number of segments in a batch.

    Args:
        by: for each segment beside the first.
    """

    name = "swayed"

    def __init__(self, by: float) -> None:
        self._by = by

    def prepare(self, folded: Folded) -> Prepared:
        """Nothing to prepare."""
        raise NotImplementedError

    def run(self, segments: Sequence[Segment]) -> list[NDArray[np.float64]]:
        """Zeros, moved by the company."""
        return [np.full(segment.rows.n, self._by * (len(segments) - 1)) for segment in segments]

    def logits(self, rows: EncodedRows, folded: Folded) -> NDArray[np.float64]:
        """Not asked for."""
        raise NotImplementedError


def _segments(engine: Any) -> list[Segment]:
    return [Segment(EncodedRows(n, {}), None, engine) for n in (1, 3, 2)]


def test_a_score_that_moves_with_its_company_is_counted() -> None:
    """Law: other bits than alone are counted segment by segment, and the farthest probability is measured."""
    engine = Swayed(1e-3)
    found = compared("swayed", engine, _segments(engine), np.random.default_rng(0), 50)
    assert 0 < found.changed <= found.segments
    assert found.compositions == 50
    assert 1e-3 / 4 / 2 < found.distance < 1e-2


def test_an_engine_that_nothing_moves_has_no_distance() -> None:
    """Law: equal bits are no change."""
    engine = Swayed(0.0)
    found = compared("steady", engine, _segments(engine), np.random.default_rng(0), 50)
    assert (found.changed, found.distance) == (0, 0.0)
    assert found.segments > 50


def test_a_score_that_is_no_number_is_as_far_as_can_be() -> None:
    """Law: NaN is never a distance of 0."""
    engine = Swayed(float("nan"))
    assert compared("nan", engine, _segments(engine), np.random.default_rng(0), 5).distance == 1.0
