"""A sent batch through gather, tower and output: by Triton kernels, or by torch's plain operators."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from adapters_store.backbone import Backbone
from service.engines.gpu.batching import LISTS, NUMBER, PADDING, TILE, Encoder, Ints, Layout
from service.engines.gpu.libraries import Tensor, Torch, interpreted
from service.engines.gpu.packing import BLOCK
from service.engines.gpu.pool import ENTRIES, HEAD, WIDEST_KEY, Grid, Pool
from service.engines.gpu.stacks import BACKBONE, Stacks
from service.errors import EngineFailed

Precision = Literal["ieee", "tf32x3", "tf32"]
"""How float32 is multiplied; ieee is exact float32, the others use tensor cores."""
COLUMNS, STEP = 64, 32
# Triton's interpreter keeps where it is once for the whole process, and copies every argument back to where it stands
_INTERPRETER = threading.Lock()


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """A batch on the device, in the parts that `Layout` names.

    Args:
        layout: of its bucket.
        tiles: (T, 3).
        codes: (F, N).
        counts: (L, N).
        tail: any length.
        host_tiles: the tiles once more, where Python can read them.
        grid: of the pool, when the batch was sent: it may grow while a batch is on its way.
    """

    layout: Layout
    tiles: Tensor
    codes: Tensor
    counts: Tensor
    tail: Tensor
    host_tiles: Ints
    grid: Grid


@dataclass(frozen=True, slots=True, eq=False)
class Scratch:
    """What a batch needs on its way, flat float32: two activations, low-rank inputs twice, and the logits (N,)."""

    one: Tensor
    other: Tensor
    low_rank: Tensor
    weighted: Tensor
    logits: Tensor


class Tower(Protocol):
    """Scores sent batches.

    Args:
        capturable: whether what it does may be recorded as a CUDA graph.
    """

    capturable: bool

    def score(self, sent: Sent, scratch: Scratch) -> int:
        """Write the logits, without the bias, to `scratch.logits`; returns the number of kernels launched."""


class Weights:
    """A backbone of kind mlp on the device.

    Args:
        torch: the package.
        device: where.
        backbone: whose.
        encoder: of its fields.
        room_bytes: for networks of single domains beside it.
    """

    def __init__(self, torch: Torch, device: Any, backbone: Backbone, encoder: Encoder, room_bytes: int = 0) -> None:
        self.torch, self.device, self.encoder = torch, device, encoder
        about, self.inputs = encoder.about()
        self.about_host = about
        self.about = self._put(about)
        tables = [backbone.weights[f"embedding.{one.name}"] for one in encoder.fields if one.kind != "dense"]
        flat = [np.zeros(1, np.float32), *(np.ascontiguousarray(table, np.float32).ravel() for table in tables)]
        self.tables = self._put(np.concatenate(flat[1:] or flat))
        first, *others = (backbone.weights[f"{module}.weight"] for module in backbone.modules)
        layers = [_padded(first, self.inputs), *others]
        self.stacks = Stacks(torch, device, layers, backbone.weights["output.weight"][0], room_bytes)
        self.widths = [self.inputs, *(len(layer) for layer in layers)]

    def _put(self, values: NDArray[Any]) -> Tensor:
        return self.torch.from_numpy(np.array(values)).to(self.device)


class TritonTower:
    """One to three kernels a layer, one before and one after.

    Args:
        kernels: the module of them.
        weights: of the backbone.
        pool: of the adapters.
        precision: of the products.
    """

    capturable = True

    def __init__(self, kernels: Any, weights: Weights, pool: Pool, precision: Precision = "ieee") -> None:
        self._kernels, self._weights, self._pool, self._precision = kernels, weights, pool, precision

    def score(self, sent: Sent, scratch: Scratch) -> int:
        """See Tower.

        Raises:
            EngineFailed: Triton cannot compile or launch a kernel.
        """
        try:
            # the interpreter multiplies by numpy, which warns of what a device is silent about
            with launching(), np.errstate(over="ignore", invalid="ignore"):
                return self._launch(sent, scratch)
        except Exception as error:  # Triton's own exceptions share no base below this
            raise EngineFailed(f"Triton failed: {error}") from error

    def _launch(self, sent: Sent, scratch: Scratch) -> int:
        launches, levels = 2, len(self._weights.stacks.layers)
        self._gather(sent, scratch.one)
        x, y = scratch.one, scratch.other
        for level in range(levels):
            low_rank, launched = self._low_rank(level, sent, x, scratch)
            self._layer(level, sent, x, y, low_rank)
            launches += 1 + launched
            x, y = y, x
        self._kernels.output[(sent.layout.tiles,)](
            x,
            scratch.logits,
            self._weights.stacks.output,
            sent.tiles,
            self._pool.table,
            levels,
            self._weights.widths[-1],
            ENTRIES=ENTRIES,
            TILE=TILE,
            STEP=STEP,
        )
        return launches

    def _gather(self, sent: Sent, x: Tensor) -> None:
        own, layout = self._weights, sent.layout
        self._kernels.gather[(layout.tiles, len(own.about_host))](
            x,
            sent.tiles,
            sent.codes,
            sent.counts,
            sent.tail,
            own.tables,
            own.about,
            layout.rows,
            own.inputs,
            TILE=TILE,
            WIDTH=BLOCK,
        )

    def _low_rank(self, level: int, sent: Sent, x: Tensor, scratch: Scratch) -> tuple[Tensor, int]:
        """The low-rank inputs of a layer, and how many kernels they took."""
        pool, table, levels = self._pool.layers[level], self._pool.table, len(self._weights.stacks.layers)
        blocks, queries = sent.grid[level]
        if not blocks:
            return scratch.low_rank, 0
        sizes = {"ENTRIES": ENTRIES, "HEAD": HEAD, "KEYS": WIDEST_KEY, "TILE": TILE, "BLOCK": BLOCK}
        shared: dict[str, Any] = {**sizes, "PRECISION": self._precision}
        z, wide, k = scratch.low_rank, blocks * BLOCK, self._weights.widths[level]
        self._kernels.project[(sent.layout.tiles, blocks)](
            x, z, pool.inner, pool.query_shift, sent.tiles, table, level, levels, k, wide, STEP=STEP, **shared
        )
        if not queries:
            return z, 1
        self._kernels.weigh[(sent.layout.tiles,)](
            z,
            scratch.weighted,
            pool.key,
            pool.division,
            pool.key_shift,
            sent.tiles,
            table,
            level,
            levels,
            wide,
            MOST=self._pool.divisions,
            **shared,
        )
        return scratch.weighted, 2

    def _layer(self, level: int, sent: Sent, x: Tensor, y: Tensor, low_rank: Tensor) -> None:
        own, pool = self._weights, self._pool.layers[level]
        k, d = own.widths[level : level + 2]
        self._kernels.layer[(sent.layout.tiles, -(-d // COLUMNS))](
            x,
            y,
            low_rank,
            own.stacks.layers[level],
            pool.outer,
            pool.shift,
            pool.scale,
            pool.offset,
            sent.tiles,
            self._pool.table,
            level,
            len(own.stacks.layers),
            k,
            d,
            sent.grid[level][0] * BLOCK,
            ENTRIES=ENTRIES,
            HEAD=HEAD,
            MOST=self._pool.divisions,
            TILE=TILE,
            COLUMNS=COLUMNS,
            BLOCK=BLOCK,
            STEP=STEP,
            PRECISION=self._precision,
        )


def launching() -> AbstractContextManager[Any]:
    """Held while kernels run or the pool is written: no constraint on a device, a lock in Triton's interpreter."""
    return _INTERPRETER if interpreted() else nullcontext()


class PlainTower:
    """The same in torch's operators, slot by slot: for a device without Triton, and what the kernels are held to.

    Args:
        weights: of the backbone.
        pool: of the adapters.
    """

    capturable = False

    def __init__(self, weights: Weights, pool: Pool) -> None:
        self._weights, self._pool, self._torch = weights, pool, weights.torch

    def score(self, sent: Sent, scratch: Scratch) -> int:
        """See Tower."""
        groups = list(_groups(sent.host_tiles))
        n = groups[-1][1] if groups else 0
        with self._torch.no_grad():
            x = self._gather(sent, n)
            for level, stack in enumerate(self._weights.stacks.layers):
                whole, y = x @ stack[BACKBONE].T, self._torch.empty(n, stack.shape[1], device=x.device)
                for start, stop, slot in groups:
                    y[start:stop] = self._adapted(level, slot, x[start:stop], whole[start:stop])
                x = y
            output = self._weights.stacks.output
            scratch.logits[:n] = x @ output[BACKBONE]
            for start, stop, slot in groups:
                entry = int(self._pool.host_table[slot, 0, HEAD - 1])
                if entry != BACKBONE:
                    scratch.logits[start:stop] = x[start:stop] @ output[entry]
        return 0

    def _gather(self, sent: Sent, n: int) -> Tensor:
        own, torch = self._weights, self._torch
        x = torch.empty(n, own.inputs, device=own.device)
        for at, (kind, begin, width, column, number) in enumerate(own.about_host.tolist()):
            target = x[:, column : column + width]
            if kind == PADDING:
                target.zero_()
                continue
            code = sent.codes[at, :n]
            if kind == NUMBER:
                target[:, 0] = code.view(torch.float32)
                continue
            size = self._weights.encoder.fields[at].vocabulary_size
            table = own.tables[begin : begin + size * width].view(size, width)
            if kind == LISTS:
                target.copy_(self._means(table, sent.tail, code, sent.counts[number, :n]))
                continue
            target.copy_(table[code.clamp(min=0).long()])
            patched = (code < 0).nonzero()[:, 0]
            bits = (-1 - code[patched]).long()[:, None] + torch.arange(width, device=own.device)
            target[patched] = sent.tail[bits].view(torch.float32)
        return x

    def _means(self, table: Tensor, tail: Tensor, begins: Tensor, counts: Tensor) -> Tensor:
        torch = self._torch
        rows = torch.repeat_interleave(torch.arange(len(counts), device=table.device), counts.long())
        before = torch.cumsum(counts.long(), 0) - counts
        within = torch.arange(len(rows), device=table.device) - before[rows]
        sums = torch.zeros(len(counts), table.shape[1], device=table.device)
        sums.index_add_(0, rows, table[tail[begins.long()[rows] + within].long()])
        return sums / counts.clamp(min=1)[:, None]

    def _adapted(self, level: int, slot: int, x: Tensor, h: Tensor) -> Tensor:
        """Rows of one slot through one layer; `h` is W0 x."""
        pool, torch = self._pool.layers[level], self._torch
        blocks, queries, m, entry, *places = self._pool.host_table[slot, level].tolist()
        if entry != BACKBONE:
            h = x @ self._weights.stacks.layers[level][entry].T
        if blocks:
            own = torch.tensor(places[:blocks], device=x.device)
            z = x @ pool.inner[own].flatten(0, 1).T
            division = pool.division[own].flatten().long()
        if queries:
            width = queries * BLOCK
            query = torch.tensor(places[blocks : blocks + queries], device=x.device)
            q = x @ pool.inner[query].flatten(0, 1).T + pool.query_shift[slot, :width]
            score = q @ pool.key_shift[slot, :m, :width].T
            if blocks:
                attended = z * (q @ pool.key[own].flatten(0, 1)[:, :width].T)
                score = score + attended @ torch.nn.functional.one_hot(division, m).float()
            weights = torch.softmax(score, 1)
            h = h + weights @ pool.shift[slot, :m]
            if blocks:
                z = z * weights[:, division]
        if blocks:
            h = h + z @ pool.outer[own].flatten(0, 1)
        return torch.relu(h * pool.scale[slot] + pool.offset[slot])


def _groups(tiles: Sequence[Any] | Ints) -> Iterator[tuple[int, int, int]]:
    """First row, the row after the last, and slot, of tiles side by side with one slot."""
    begin, end, held = 0, 0, -1
    for start, rows, slot in np.asarray(tiles).tolist():
        if slot != held and end > begin:
            yield begin, end, held
            begin = start
        end, held = start + rows, slot
    if end > begin:
        yield begin, end, held


def _padded(weight: NDArray[Any], inputs: int) -> NDArray[Any]:
    """A weight (d, k) with zeros for inputs that are padding."""
    return np.pad(weight, [(0, 0), (0, inputs - weight.shape[1])])
