"""A prepared blob's bytes: one tensor file whose arrays are used where they lie.

All folded arrays, or what an engine packed of them where it can take that back, stand in one tensor, each at a
multiple of 64 bytes from the file's start and shared ones once; the metadata entry says which is which. An id overlay
has its own tensors beside it: its index, its rows, its weights.
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
from service.engine import Packed
from service.prepared.identity import Identity

_LINE_BYTES = 64
_ALIGNED = 16  # floats of one cache line
# float32, kept as words of 8 bytes: the widest tensors come first in a file, and of these it is the first by name
_FLOATS = "floats"
_FLOAT, _WORD = np.dtype("<f4"), np.dtype("<i8")
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
        folds: each combination that can occur, folded or as the engine packed it; they share one overlay.
    """

    divisions: tuple[str, ...]
    fuses: Mapping[str, str]
    fusion: str | None
    made_s: float | None
    folds: Mapping[Combination, Folded | Packed]

    @property
    def overlay(self) -> Overlay | None:
        """The adapter's; None for most."""
        return next(iter(self.folds.values())).overlay

    @property
    def is_keepable(self) -> bool:
        """Whether it is packed or low rank: another delta is as large as a backbone, and its tables as its artifact."""
        return all(isinstance(own, Packed) or own.delta is None for own in self.folds.values())


def encode(identity: Identity, accepted: Accepted, pause: Pause) -> bytes:
    """Write a blob; the same folds are always the same bytes.

    Args:
        identity: what it is of.
        accepted: without deltas that are not packed.
        pause: called between two steps.
    """
    shelf = _Shelf()
    combinations = []
    for combination, own in accepted.folds.items():
        combinations.append([list(combination), own.slope, own.intercept, _written(own, shelf)])
        pause()
    tensors: dict[str, NDArray[Any]] = {_FLOATS: shelf.floats().view(_WORD)}
    fields: dict[str, str] = {}
    for side, ids in ({} if accepted.overlay is None else accepted.overlay.sides).items():
        fields[side] = ids.field
        tensors |= ids.index.to_tensors(f"{side}.ids") | {f"{side}.rows": ids.rows}
        tensors |= {} if ids.first_order is None else {f"{side}.first_order": ids.first_order}
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
        _LINE_BYTES,
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
        floats, overlay = file.tensors[_FLOATS].view(_FLOAT), _overlay(file, said["overlay"])
        arrays = [_array(floats, *place) for place in said["arrays"]]
        folds = {
            tuple(domains): _read(written, arrays, slope, intercept, overlay)
            for domains, slope, intercept, written in said["combinations"]
        }
        if not folds:
            raise ForeignBlob("it has no combination")
        return Accepted(tuple(said["divisions"]), said["fuses"], said["fusion"], said["made_s"], folds)
    except (ArtifactError, FeatureError, AttributeError, LookupError, TypeError, ValueError) as error:
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
        whole = np.zeros(self._end, _FLOAT)
        for (start, *_), array in zip(self.places, self._arrays, strict=True):
            whole[start : start + array.size] = array.reshape(-1)
        return whole


def _written(own: Folded | Packed, shelf: _Shelf) -> dict[str, Any]:
    """One combination without its calibration: the numbers of its arrays, by module, or that of its memory."""
    if isinstance(own, Packed):
        return {"packed": {"isa": own.isa, "sizes": list(own.sizes), "memory": shelf.put(own.memory)}}
    modules = own.modules.items()
    return {"modules": {name: [shelf.put(array) for array in parts.arrays().values()] for name, parts in modules}}


def _read(
    written: Mapping[str, Any], arrays: list[Floats], slope: float, intercept: float, overlay: Overlay | None
) -> Folded | Packed:
    if "packed" in written:
        own = written["packed"]
        return Packed(own["isa"], own["sizes"], arrays[own["memory"]], slope, intercept, overlay)
    modules = {name: _module(arrays, parts) for name, parts in written["modules"].items()}
    return Folded(modules, slope, intercept, overlay=overlay)


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
