"""A request's rows as an engine takes them, one segment for each auxiliary combination, and its logits put back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.rows import EncodedRows
from service.engine import Segment
from service.slots import Slot
from service.tables import Encoded, FeatureTables, Part

# rows of each segment, in the order of the request; None means all of them
Places = Sequence[NDArray[np.int64] | None]


def split(tables: FeatureTables, encoded: Encoded, slot: Slot) -> tuple[list[Segment], Places]:
    """Segments of a request that one slot scores.

    Args:
        tables: those that encoded it.
        encoded: the request, overlaid by the slot's overlay if it has one.
        slot: leased by the caller.

    Returns:
        The segments, and which rows each has.
    """
    parts = tables.parts(encoded, slot.divisions)
    engine = slot.serving.engine
    segments = [Segment(rows_of(encoded, part), slot.prepared(part.combination), engine) for part in parts]
    return segments, [part.positions for part in parts]


def scored_by(encoded: Encoded, slot: Slot) -> Encoded:
    """The request as a slot scores it: with what the slot's id overlay knows of its ids."""
    return encoded if slot.overlay is None else encoded.overlaid_by(slot.overlay)


def rows_of(encoded: Encoded, part: Part) -> EncodedRows:
    """The rows of one part."""
    return encoded.rows if part.positions is None else encoded.rows.take(part.positions)


def in_order(parts: Sequence[NDArray[np.float64]], places: Places) -> NDArray[np.float64]:
    """Logits in the order of the request, float64 (n,), from those of its segments."""
    if len(parts) == 1 and places[0] is None:
        return parts[0]
    logits = np.empty(sum(len(part) for part in parts))
    for part, positions in zip(parts, places, strict=True):
        logits[positions] = part
    return logits


def probability(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sigmoid, without overflow on either side."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0 / (1.0 + small), small / (1.0 + small))
