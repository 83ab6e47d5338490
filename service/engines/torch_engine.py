"""The GPU engine: prepared adapters in a pool on the device, all segments of a batch in a few grouped Triton kernels.

It is asked for by `engine: torch`; the parts are in `service.engines.gpu`, what was run of it stands in docs/gpu.md.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters_store.backbone import Backbone
from adapters_store.dense import DENSE_GRAPH, FoldedDelta
from adapters_store.folding import Folded
from features.overlay import Overlay
from features.rows import EncodedRows
from service.engine import Engine, Segment
from service.engines.gpu.batching import TILE, Batch, Encoder, Part
from service.engines.gpu.lanes import CpuLane, CudaLane, Lane, on_device
from service.engines.gpu.libraries import find_device, find_kernels, find_torch
from service.engines.gpu.packing import BLOCK, pack, pack_dense
from service.engines.gpu.pool import Held, Pool
from service.engines.gpu.stacks import HeldEntry
from service.engines.gpu.towers import PlainTower, Precision, Tower, TritonTower, Weights, launching
from service.engines.native import EngineAbsent, HandedOn
from service.errors import EngineFailed

_KIND = "mlp"
_ROWS = 16_384
_CPU_POOL_BYTES = 32 << 20
_SHARE_OF_DEVICE = 0.25  # two backbones may be in memory, and each has its pool
_PART_FOR_DENSE = 4  # of the pool, where the bundle is made for deltas
_TAIL_PER_TILE = 64 * TILE
_FAULTS = (RuntimeError, ValueError, TypeError, KeyError, IndexError)


@dataclass(frozen=True, slots=True, eq=False)
class TorchPrepared:
    """One combination in the pool.

    Args:
        held: keeps its slot.
        slope: calibrated logit = slope * logit + intercept.
        intercept: see slope.
        overlay: its vectors stay in the host's memory and are sent with the rows that need them.
        bias: of the output.
        entry: keeps the weights of a whole network; None where they are the backbone's.
    """

    held: Held
    slope: float
    intercept: float
    overlay: Overlay | None
    bias: float
    entry: HeldEntry | None = None

    @property
    def nbytes(self) -> int:
        """On the device; a fusion's queries, which all its combinations share, are counted in each."""
        return self.held.nbytes + (0 if self.entry is None else self.entry.nbytes)


class TorchEngine:
    """Scores on one GPU, or, for tests, on the CPU.

    What the pool cannot hold (deltas of tables, ranks over 128 in one layer, no room left) goes to the portable engine.

    Args:
        backbone: the bundle; weights and embeddings are copied to the device.
        portable: scores what this engine cannot; without it that is refused.
        device: as torch names it.
        pool_bytes: for prepared adapters; None takes a quarter of what the tables leave free. A quarter of it is for
            whole networks (kind delta) where the bundle has the graph for those.
        rows_per_run: rows of one batch on the device, rounded to tiles; a longer one is cut.
        precision: of the products.
        plain: use torch's operators even where Triton is at hand.

    Raises:
        EngineAbsent: torch or the device is missing or has no room, or the backbone is not of kind mlp.
    """

    name = "torch"

    def __init__(
        self,
        backbone: Backbone,
        portable: Engine | None = None,
        *,
        device: str = "cuda",
        pool_bytes: int | None = None,
        rows_per_run: int = _ROWS,
        precision: Precision = "ieee",
        plain: bool = False,
    ) -> None:
        _check_kind(backbone)
        self._torch = find_torch()
        self._device = find_device(self._torch, device)
        kernels = None if plain else find_kernels(self._device)
        self.kernels_in_use = "plain" if kernels is None else "triton"
        self._portable = portable
        self._most_tiles = max(1, rows_per_run // TILE)
        self._most_tail = _TAIL_PER_TILE * self._most_tiles
        self._biases = {module: backbone.weights[f"{module}.bias"] for module in backbone.modules}
        self._bias = float(backbone.weights["output.bias"][0])
        self._encoder = Encoder(backbone.manifest.fields)
        try:
            with self._on_device():
                room = self._pool_bytes(pool_bytes, backbone)
                dense_room = room // _PART_FOR_DENSE if DENSE_GRAPH in backbone.files else 0
                weights = Weights(self._torch, self._device, backbone, self._encoder, dense_room)
                self.stacks = weights.stacks
                divisions = min(BLOCK, max(2, len(backbone.manifest.divisions)))
                self.pool = Pool(self._torch, self._device, weights.widths, divisions, room - dense_room)
                tower: Tower = PlainTower(weights, self.pool)
                if kernels is not None:
                    tower = TritonTower(kernels, weights, self.pool, precision)
                self._lanes = [self._lane(tower, max(weights.widths)) for _ in range(2)]
                self._verifying = self._lane(tower, max(weights.widths))
                self._wait()  # what was written on the default stream is there before other streams read or write it
        except RuntimeError as error:
            raise EngineAbsent(f"the torch engine cannot run: {error}") from error
        self._scoring, self._checking = threading.Lock(), threading.Lock()

    def prepare(self, folded: Folded) -> TorchPrepared | HandedOn:
        """Write a fold into the pool.

        Raises:
            EngineFailed: it does not fit the backbone, or the pool cannot hold it and there is no other engine.
        """
        prepared = self._prepared(folded)
        if prepared is not None:
            return prepared
        if self._portable is None:
            raise EngineFailed(
                "the torch engine cannot hold this adapter: deltas of tables, too high a rank, or no room left"
            )
        handed = self._portable.prepare(folded)
        return HandedOn(handed, handed.nbytes)

    def run(self, segments: Sequence[Segment]) -> list[NDArray[np.float64]]:
        """Score segments; those that another engine prepared, by that.

        Raises:
            EngineFailed: rows are not of this backbone, or the device failed.
        """
        own = [(segment.rows, segment.prepared) for segment in segments if isinstance(segment.prepared, TorchPrepared)]
        with self._scoring:
            raw = self._score(self._lanes, own)
        with np.errstate(over="ignore", invalid="ignore"):  # the scorer looks for what is not finite
            scored = iter([each.slope * part + each.intercept for (_, each), part in zip(own, raw, strict=True)])
        if len(own) == len(segments):
            return list(scored)
        handed_on = iter(self._hand_on([segment for segment in segments if isinstance(segment.prepared, HandedOn)]))
        return [next(scored if isinstance(segment.prepared, TorchPrepared) else handed_on) for segment in segments]

    def logits(self, rows: EncodedRows, folded: Folded) -> NDArray[np.float64]:
        """Logits before calibration, float64 (n,); beside `run`, which does not wait for it.

        Raises:
            EngineFailed: rows or fold are not of this backbone, or the device failed.
        """
        prepared = self.prepare(folded)
        if isinstance(prepared, HandedOn):
            assert self._portable is not None
            return self._portable.logits(rows, folded)
        with self._checking:
            return self._score([self._verifying], [(rows, prepared)])[0]

    def batches(self, parts: Sequence[Part]) -> list[Batch]:
        """What `run` would send, cut to what a lane takes."""
        return [batch for cut in _cut(parts, self._most_tiles) for batch in self._fitting(cut)]

    @property
    def lane(self) -> Lane:
        """The first of those that `run` uses; for the benchmark."""
        return self._lanes[0]

    def _prepared(self, folded: Folded) -> TorchPrepared | None:
        try:
            with self._on_device(), launching():
                if folded.delta is not None:
                    return self._prepared_dense(folded, folded.delta)
                held = self.pool.take(pack(folded.modules, self._biases))
        except _FAULTS as error:
            raise EngineFailed(f"the torch engine cannot prepare the adapter: {error}") from error
        return None if held is None else TorchPrepared(held, folded.slope, folded.intercept, folded.overlay, self._bias)

    def _prepared_dense(self, folded: Folded, delta: FoldedDelta) -> TorchPrepared | None:
        if delta.tables:  # rows are looked up on the device, in the backbone's tables alone
            return None
        weights = delta.weights
        layers = [weights[f"{module}.weight"] for module in self._biases]
        entry = self.stacks.take(layers, weights["output.weight"][0])
        if entry is None:
            return None
        held = self.pool.take(pack_dense(weights, list(self._biases)), entry.number)
        if held is None:
            return None
        bias = float(weights["output.bias"][0])
        return TorchPrepared(held, folded.slope, folded.intercept, folded.overlay, bias, entry)

    def _score(
        self, lanes: Sequence[Lane], given: Sequence[tuple[EncodedRows, TorchPrepared]]
    ) -> list[NDArray[np.float64]]:
        """Raw logits of each; rows of one slot side by side, batches taking turns on the lanes."""
        slots: dict[int, list[int]] = {}
        for position, (_, prepared) in enumerate(given):
            slots.setdefault(prepared.held.slot, []).append(position)
        order = [position for group in slots.values() for position in group]
        parts = [Part(rows, own.held.slot, own.overlay) for rows, own in (given[position] for position in order)]
        try:
            with self._on_device():
                raw = self._through(lanes, [part for part in parts if part.rows.n])
        except EngineFailed:
            raise
        except _FAULTS as error:
            raise EngineFailed(f"the torch engine failed: {error}") from error
        stops = np.cumsum([part.rows.n for part in parts])
        found: list[NDArray[np.float64]] = [np.empty(0)] * len(given)
        for position, part, stop in zip(order, parts, stops, strict=True):
            found[position] = raw[stop - part.rows.n : stop] + given[position][1].bias
        return found

    def _through(self, lanes: Sequence[Lane], parts: Sequence[Part]) -> NDArray[np.float64]:
        done: list[NDArray[np.float32]] = []
        started: list[Lane] = []
        try:
            for number, batch in enumerate(self.batches(parts)):
                if len(started) == len(lanes):
                    done.append(started.pop(0).finish())
                lane = lanes[number % len(lanes)]
                started.append(lane)
                lane.start(batch)
        finally:  # whatever happens, nothing of this run goes on when it is over: its slots may be given away
            done += [lane.finish() for lane in started]
        return np.concatenate(done).astype(np.float64) if done else np.empty(0)

    def _fitting(self, parts: Sequence[Part]) -> Iterator[Batch]:
        """A batch, or its halves where lists or overlays are too long for the tail."""
        batch = self._encoder.batch(parts)
        if len(batch.tail) <= self._most_tail:
            yield batch
            return
        tiles = len(batch.tiles)
        if tiles == 1:
            raise EngineFailed(f"{batch.n} rows have {len(batch.tail)} values in lists, more than {self._most_tail}")
        for half in _cut(parts, -(-tiles // 2)):
            yield from self._fitting(half)

    def _lane(self, tower: Tower, widest: int) -> Lane:
        if self._device.type != "cuda":
            return CpuLane(self._torch, tower, self._encoder, widest, self.pool)
        return CudaLane(
            self._torch,
            self._device,
            tower,
            self._encoder,
            widest,
            self.pool,
            most_tiles=self._most_tiles,
            most_tail=self._most_tail,
        )

    def _pool_bytes(self, given: int | None, backbone: Backbone) -> int:
        """For prepared adapters: of what the embedding tables, which come first, leave free."""
        if given is not None:
            return given
        if self._device.type != "cuda":
            return _CPU_POOL_BYTES
        tables = [backbone.weights[f"embedding.{one.name}"] for one in self._encoder.fields if one.kind != "dense"]
        free_bytes = self._torch.cuda.mem_get_info(self._device)[0] - sum(4 * table.size for table in tables)
        return int(_SHARE_OF_DEVICE * max(0, free_bytes))

    def _wait(self) -> None:
        if self._device.type == "cuda":
            self._torch.cuda.synchronize(self._device)

    def _hand_on(self, segments: Sequence[Segment]) -> list[NDArray[np.float64]]:
        assert self._portable is not None
        return self._portable.run([Segment(each.rows, each.prepared.prepared, self._portable) for each in segments])

    def _on_device(self) -> AbstractContextManager[object]:
        return on_device(self._torch, self._device)


def _check_kind(backbone: Backbone) -> None:
    if backbone.manifest.kind != _KIND:
        raise EngineAbsent(f"the torch engine has no backbones of kind {backbone.manifest.kind!r}")


def _cut(parts: Sequence[Part], tiles: int) -> Iterator[list[Part]]:
    """Parts in portions of at most so many tiles; a part that is longer than what is left is split."""
    portion: list[Part] = []
    room = tiles
    for part in parts:
        start = 0
        while start < part.rows.n:
            stop = min(part.rows.n, start + room * TILE)
            whole = stop - start == part.rows.n
            own = part.rows if whole else part.rows.take(np.arange(start, stop))
            portion.append(Part(own, part.slot, part.overlay))
            room -= -(-(stop - start) // TILE)
            start = stop
            if not room:
                yield portion
                portion, room = [], tiles
    if portion:
        yield portion
