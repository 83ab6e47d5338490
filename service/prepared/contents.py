"""A prepared blob's bytes: one tensor file whose arrays are used where they lie.

All folded arrays stand in one float32 tensor, each at a multiple of 64 bytes from its start and shared ones once; the
metadata entry says which is which. An id overlay has its own tensors beside it: its index, its rows, its weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from adapters_store.errors import ArtifactError
from adapters_store.folding import FOLDED_PARTS, Combination, Folded, FoldedModule
from adapters_store.pausing import Pause
from adapters_store.tensors import TensorFile, TensorLimits, read_tensors, write_tensors
from features.errors import FeatureError
from features.index import RawIndex
from features.overlay import OVERLAID_SIDES, IdOverlay, Overlay
from service.prepared.identity import Identity

_ALIGNED = 16  # floats of one cache line
_FLOATS = "floats"
_LIMITS = TensorLimits(bytes=2**40, tensors=64, header_bytes=2**26)

Floats = NDArray[np.float32]


class ForeignBlob(Exception):
    """A blob is not what its record says: of another layout, or of something else."""


@dataclass(frozen=True, slots=True, eq=False)
class Accepted:
    """A verified adapter, as far as serving needs it.

    Args:
        divisions: names of its auxiliary divisions, in the order of a combination.
        fuses: auxiliary domain -> revision of what is folded in.
        fusion: revision of the fusion; None where it pins none.
        made_s: when it was made, seconds since the epoch; None: it does not say.
        folds: each combination that can occur; they share one overlay.
    """

    divisions: tuple[str, ...]
    fuses: Mapping[str, str]
    fusion: str | None
    made_s: float | None
    folds: Mapping[Combination, Folded]

    @property
    def overlay(self) -> Overlay | None:
        """The adapter's; None for most."""
        return next(iter(self.folds.values())).overlay

    @property
    def is_keepable(self) -> bool:
        """Whether it is low rank; a delta is as large as a backbone, and its tables are what the artifact has."""
        return all(folded.delta is None for folded in self.folds.values())


def encode(identity: Identity, accepted: Accepted, pause: Pause) -> bytes:
    """Write a blob; the same folds are always the same bytes.

    Args:
        identity: what it is of.
        accepted: without deltas.
        pause: called between two steps.
    """
    shelf = _Shelf()
    combinations = []
    for combination, folded in accepted.folds.items():
        modules = {name: [shelf.put(array) for array in own.arrays().values()] for name, own in folded.modules.items()}
        combinations.append([list(combination), folded.slope, folded.intercept, modules])
        pause()
    tensors: dict[str, NDArray[Any]] = {_FLOATS: shelf.floats()}
    fields: dict[str, str] = {}
    for side, own in ({} if accepted.overlay is None else accepted.overlay.sides).items():
        fields[side] = own.field
        tensors |= own.index.to_tensors(f"{side}.ids") | {f"{side}.rows": own.rows}
        tensors |= {} if own.first_order is None else {f"{side}.first_order": own.first_order}
    pause()
    return write_tensors(
        tensors,
        {
            "identity": identity.written(),
            "divisions": list(accepted.divisions),
            "fuses": dict(accepted.fuses),
            "fusion": accepted.fusion,
            "made_s": accepted.made_s,
            "arrays": shelf.places,
            "combinations": combinations,
            "overlay": fields,
        },
    )


def decode(content: bytes | memoryview, identity: Identity) -> Accepted:
    """Read a blob whose bytes are known to be whole; its arrays are views of them.

    Args:
        content: as `encode` wrote it.
        identity: what it must be of.

    Raises:
        ForeignBlob: it is of something else, or no blob of this layout.
    """
    try:
        file = read_tensors(content, _LIMITS)
        said = cast(dict[str, Any], file.metadata)
        if said["identity"] != identity.written():
            raise ForeignBlob("it is of another identity")
        floats, overlay = file.tensors[_FLOATS], _overlay(file, said["overlay"])
        arrays = [_array(floats, *place) for place in said["arrays"]]
        folds = {
            tuple(domains): Folded(
                {name: _module(arrays, parts) for name, parts in modules.items()}, slope, intercept, overlay=overlay
            )
            for domains, slope, intercept, modules in said["combinations"]
        }
        if not folds:
            raise ForeignBlob("it has no combination")
        return Accepted(tuple(said["divisions"]), said["fuses"], said["fusion"], said["made_s"], folds)
    except (ArtifactError, FeatureError, LookupError, TypeError, ValueError) as error:
        raise ForeignBlob(str(error)) from error


@dataclass(slots=True)
class _Shelf:
    """Arrays side by side; one that several folds share stands there once.

    Args:
        places: of each, where it starts, in floats, and its shape.
    """

    places: list[list[int]] = field(default_factory=list)
    _arrays: list[Floats] = field(default_factory=list)
    _known: dict[int, int] = field(default_factory=dict)
    _end: int = 0

    def put(self, array: Floats) -> int:
        """The number of this array."""
        number = self._known.setdefault(id(array), len(self._arrays))
        if number == len(self._arrays):
            self._arrays.append(array)
            self.places.append([self._end, *array.shape])
            self._end += -(-array.size // _ALIGNED) * _ALIGNED
        return number

    def floats(self) -> Floats:
        """All of them."""
        whole = np.zeros(self._end, np.float32)
        for (start, *_), array in zip(self.places, self._arrays, strict=True):
            whole[start : start + array.size] = array.reshape(-1)
        return whole


def _array(floats: Floats, start: int, *shape: int) -> Floats:
    size = math.prod(shape)
    if start < 0 or start + size > len(floats):
        raise ForeignBlob(f"an array of shape {shape} at {start} leads outside {len(floats)} floats")
    return floats[start : start + size].reshape(shape)


def _module(arrays: list[Floats], parts: list[int]) -> FoldedModule:
    return FoldedModule(**{name: arrays[part] for name, part in zip(FOLDED_PARTS, parts, strict=True)})


def _overlay(file: TensorFile, fields: Mapping[str, str]) -> Overlay | None:
    sides = {}
    for side in OVERLAID_SIDES:
        if side in fields:
            index = RawIndex.from_tensors(file.tensors, f"{side}.ids")
            weights = file.tensors.get(f"{side}.first_order")
            sides[side] = IdOverlay(fields[side], index, file.tensors[f"{side}.rows"], weights)
    return Overlay(sides) if sides else None
