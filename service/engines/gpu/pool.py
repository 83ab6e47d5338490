"""Where prepared combinations lie on the device: slots of one size, found through an index table.

A combination takes one *slot* (scales, offsets and what else it has one of) and, in each layer, a *place* for each
block of 16 components. A fusion's queries take places, too, one set for all combinations of it. Places of a layer are
alike, so none is ever too small and memory never falls to pieces. The table says where a combination's blocks are:

    table[slot, layer] = [component blocks B, query blocks Q, divisions m, entry of the weights, B + Q places]

The entry says whose weights the slot's rows are multiplied by (see `stacks`).
Slots and places come back when the last reference to what `take` returned is gone. A run refers to what it scores until
its logits are read, so nothing that it reads is ever written over.
"""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engines.gpu.libraries import Tensor, Torch
from service.engines.gpu.packing import BLOCK, PackedLayer, query_bytes

MOST_COMPONENTS = 8
MOST_QUERIES = 4
"""Blocks of a layer: ranks up to 128 side by side, fusions up to rank 64."""
HEAD = 4
ENTRIES = HEAD + MOST_COMPONENTS + MOST_QUERIES
WIDEST_KEY = MOST_QUERIES * BLOCK
_PLACES_PER_SLOT = 4


@dataclass(frozen=True, slots=True, eq=False)
class LayerPool:
    """One layer's part of the pool: P places, S slots, M divisions at most, F = WIDEST_KEY.

    Args:
        inner: (P, 16, k): down, or query.
        outer: (P, 16, d): up.
        key: (P, 16, F).
        division: (P, 16) int32.
        query_shift: (S, F).
        key_shift: (S, M, F).
        shift: (S, M, d).
        scale: (S, d).
        offset: (S, d).
    """

    inner: Tensor
    outer: Tensor
    key: Tensor
    division: Tensor
    query_shift: Tensor
    key_shift: Tensor
    shift: Tensor
    scale: Tensor
    offset: Tensor


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Held:
    """A slot and its places, for as long as someone refers to this.

    Args:
        slot: row of the table.
        nbytes: of slot and places, a fusion's queries included.
    """

    slot: int
    nbytes: int


@dataclass(slots=True, eq=False)
class _Queries:
    places: list[list[int]]  # by layer
    holders: int = 0


_Freed = tuple[int, list[list[int]], bytes]
Grid = tuple[tuple[int, int], ...]
"""By layer, the most blocks that any combination so far has, and the most queries among them."""


class Pool:
    """Slots and places of one backbone.

    Args:
        torch: the package.
        device: where they lie.
        widths: input of the first layer, then each layer's output.
        divisions: that a combination can have.
        pool_bytes: what all of it may take.
    """

    def __init__(self, torch: Torch, device: Any, widths: Sequence[int], divisions: int, pool_bytes: int) -> None:
        self._torch, self._device = torch, device
        shapes = list(pairwise(widths))
        self._place_bytes = [4 * BLOCK * (k + d + WIDEST_KEY + 1) for k, d in shapes]
        self._slot_bytes = sum(4 * (WIDEST_KEY * (1 + divisions) + (2 + divisions) * d) for _, d in shapes)
        self.slots = max(1, pool_bytes // (self._slot_bytes + _PLACES_PER_SLOT * sum(self._place_bytes)))
        self.places = _PLACES_PER_SLOT * self.slots
        self.divisions = divisions
        self.layers = [self._layer(k, d) for k, d in shapes]
        self.host_table: NDArray[np.int32] = np.zeros((self.slots, len(shapes), ENTRIES), np.int32)
        self.table = self._empty(*self.host_table.shape, dtype=torch.int32)
        self._grid: Grid = ((0, 0),) * len(shapes)
        self._free_slots = list(reversed(range(self.slots)))
        self._free_places = [list(reversed(range(self.places))) for _ in shapes]
        self._queries: dict[bytes, _Queries] = {}
        self._freed: deque[_Freed] = deque()  # a finalizer may run anywhere, so it takes no lock
        self._lock = threading.Lock()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def take(self, layers: Sequence[PackedLayer], entry: int = 0) -> Held | None:
        """Write a combination into free places.

        Args:
            layers: packed, of this pool's widths.
            entry: of the weights; 0 for the backbone's.

        Returns:
            A hold on it; None where there is no room for it, or none of this pool's slots is large enough.
        """
        queries = query_bytes(layers)
        digest = hashlib.blake2b(queries).digest() if queries else b""
        with self._lock:
            self._take_back()
            shared = self._queries.get(digest)
            if not self._has_room(layers, shared is None):
                return None
            places = [self._pick(level, len(layer.down)) for level, layer in enumerate(layers)]
            if shared is None:
                shared = _Queries([self._pick(level, len(layer.query)) for level, layer in enumerate(layers)])
                self._queries[digest] = shared
                self._write(layers, shared.places, {"inner": "query"})
            shared.holders += 1
            slot = self._free_slots.pop()
            self._write(layers, places, {"inner": "down", "outer": "up", "key": "key", "division": "division"})
            self._write_slot(slot, layers, places, shared.places, entry)
            sizes = [(len(one.down) + len(one.query), len(one.query)) for one in layers]
            self._grid = tuple((max(a, c), max(b, d)) for (a, b), (c, d) in zip(self._grid, sizes, strict=True))
        blocks = [len(own) + len(query) for own, query in zip(places, shared.places, strict=True)]
        nbytes = self._slot_bytes + sum(n * size for n, size in zip(blocks, self._place_bytes, strict=True))
        held = Held(slot, nbytes)
        weakref.finalize(held, self._freed.append, (slot, places, digest)).atexit = False
        return held

    @property
    def grid(self) -> Grid:
        """What a launch must cover; it never shrinks."""
        return self._grid

    @property
    def free(self) -> tuple[int, list[int]]:
        """Free slots, and free places of each layer."""
        with self._lock:
            self._take_back()
            return len(self._free_slots), [len(places) for places in self._free_places]

    def _has_room(self, layers: Sequence[PackedLayer], with_queries: bool) -> bool:
        for layer, free in zip(layers, self._free_places, strict=True):
            components, queries = len(layer.down), len(layer.query)
            if components > MOST_COMPONENTS or queries > MOST_QUERIES or len(layer.shift) > self.divisions:
                return False
            if components + with_queries * queries > len(free):
                return False
        return bool(self._free_slots)

    def _pick(self, level: int, n: int) -> list[int]:
        return [self._free_places[level].pop() for _ in range(n)]

    def _take_back(self) -> None:
        while self._freed:
            slot, places, digest = self._freed.popleft()
            self._free_slots.append(slot)
            self._put_back(places)
            shared = self._queries[digest]
            shared.holders -= 1
            if not shared.holders:
                self._put_back(self._queries.pop(digest).places)

    def _put_back(self, places: Sequence[Sequence[int]]) -> None:
        for free, own in zip(self._free_places, places, strict=True):
            free.extend(own)

    def _write(self, layers: Sequence[PackedLayer], places: Sequence[Sequence[int]], parts: dict[str, str]) -> None:
        with self._writing():
            for level, (layer, own) in enumerate(zip(layers, places, strict=True)):
                if not own:
                    continue
                at = self._torch.tensor(own, device=self._device)
                for target, source in parts.items():
                    values = self._on_device(getattr(layer, source))
                    getattr(self.layers[level], target)[at, ..., : values.shape[-1]] = values

    def _write_slot(
        self,
        slot: int,
        layers: Sequence[PackedLayer],
        places: Sequence[Sequence[int]],
        queries: Sequence[Sequence[int]],
        entry: int,
    ) -> None:
        rows = self.host_table[slot]
        with self._writing():
            for level, layer in enumerate(layers):
                own = [*places[level], *queries[level]] if len(layer.query) else [*places[level]]
                rows[level, :HEAD] = len(places[level]), len(layer.query), len(layer.shift), entry
                rows[level, HEAD : HEAD + len(own)] = own
                target = self.layers[level]
                for name in ("scale", "offset", "query_shift"):
                    values = getattr(layer, name)
                    getattr(target, name)[slot, : len(values)] = self._on_device(values)
                m, width = layer.key_shift.shape
                if len(layer.query):
                    target.shift[slot, :m] = self._on_device(layer.shift)
                    target.key_shift[slot, :m, :width] = self._on_device(layer.key_shift)
            self.table[slot] = self._on_device(rows)

    def _writing(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else Writing(self._torch, self._stream)

    def _on_device(self, values: NDArray[Any]) -> Tensor:
        return self._torch.tensor(values, device=self._device)

    def _layer(self, k: int, d: int) -> LayerPool:
        p, s, m, f = self.places, self.slots, self.divisions, WIDEST_KEY
        return LayerPool(
            inner=self._empty(p, BLOCK, k),
            outer=self._empty(p, BLOCK, d),
            key=self._empty(p, BLOCK, f),
            division=self._empty(p, BLOCK, dtype=self._torch.int32),
            query_shift=self._empty(s, f),
            key_shift=self._empty(s, m, f),
            shift=self._empty(s, m, d),
            scale=self._empty(s, d),
            offset=self._empty(s, d),
        )

    def _empty(self, *shape: int, dtype: Any = None) -> Tensor:
        return self._torch.zeros(shape, dtype=dtype or self._torch.float32, device=self._device)


class Writing:
    """Writes on a stream of their own, done when it ends."""

    def __init__(self, torch: Torch, stream: Any) -> None:
        self._stream, self._context = stream, torch.cuda.stream(stream)

    def __enter__(self) -> None:
        self._context.__enter__()

    def __exit__(self, *raised: object) -> None:
        self._stream.synchronize()
        self._context.__exit__(*raised)
