"""A batch's way to the device and back, through buffers that stay where they are, so that graphs can be replayed.

On a CUDA device the copy of the next batch runs beside the kernels of the one before: each lane has a pinned buffer and
a stream for copies. Batches are filled up to *buckets* of tiles; each bucket's kernels are recorded once as a CUDA
graph, with the first batch of that size, and replayed from then on: one call instead of a launch for each kernel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.engines.gpu.batching import Batch, Encoder, Layout
from service.engines.gpu.libraries import Tensor, Torch
from service.engines.gpu.packing import BLOCK
from service.engines.gpu.pool import MOST_COMPONENTS, MOST_QUERIES, Grid, Pool
from service.engines.gpu.towers import Scratch, Sent, Tower

# torch records one graph at a time in a process; nobody waits for another one's
_RECORDING = threading.Lock()


class Lane(Protocol):
    """One batch at a time: started, then finished."""

    launches: int

    def start(self, batch: Batch) -> None:
        """Send a batch and let it be scored."""

    def finish(self) -> NDArray[np.float32]:
        """Its logits without the bias, (n,), once they are there."""


def bucket(tiles: int, most: int) -> int:
    """The size up to which a batch of so many tiles is filled: half powers of two (…, 8, 12, 16, 24, …)."""
    size = 8
    while size < tiles:
        size += size // 2 if size & (size - 1) == 0 else size // 3
    return min(size, most)


class CpuLane:
    """Scores in place, in `start`.

    Args:
        torch: the package.
        tower: scores.
        encoder: of the backbone's fields.
        widest: of all layers' inputs and outputs.
        pool: of the adapters.
    """

    def __init__(self, torch: Torch, tower: Tower, encoder: Encoder, widest: int, pool: Pool) -> None:
        self._torch, self._tower, self._encoder, self._widest = torch, tower, encoder, widest
        self._pool = pool
        self._logits: NDArray[np.float32] = np.empty(0, np.float32)
        self.launches = 0

    def start(self, batch: Batch) -> None:
        """See Lane."""
        layout = Layout(len(batch.tiles), len(self._encoder.fields), self._encoder.lists)
        ints = np.zeros(layout.tail + max(len(batch.tail), 1), np.int32)
        batch.write(ints, layout)
        scratch = _scratch(self._torch, layout.rows, self._widest, None)
        self.launches = self._tower.score(_views(self._torch.from_numpy(ints), layout, batch, self._pool.grid), scratch)
        self._logits = scratch.logits[: batch.n].numpy()

    def finish(self) -> NDArray[np.float32]:
        """See Lane."""
        return self._logits


class CudaLane:
    """Buffers, streams and graphs on a CUDA device. Not run yet: see docs/gpu.md.

    Args:
        torch: the package.
        device: which.
        tower: scores.
        encoder: of the backbone's fields.
        widest: of all layers' inputs and outputs.
        pool: of the adapters; a graph knows its grid, so when that grows there is another graph.
        most_tiles: of a batch.
        most_tail: integers of a batch's tail.
    """

    def __init__(
        self,
        torch: Torch,
        device: Any,
        tower: Tower,
        encoder: Encoder,
        widest: int,
        pool: Pool,
        *,
        most_tiles: int,
        most_tail: int,
    ) -> None:
        self._torch, self._tower, self._encoder, self._pool = torch, tower, encoder, pool
        self._most_tiles = most_tiles
        largest = self._layout(most_tiles)
        self._pinned = torch.empty(largest.tail + most_tail, dtype=torch.int32, pin_memory=True)
        self._sent = torch.zeros(largest.tail + most_tail, dtype=torch.int32, device=device)
        self._scratch = _scratch(torch, largest.rows, widest, device)
        self._logits = torch.empty(largest.rows, dtype=torch.float32, pin_memory=True)
        self._copies, self._kernels = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._done = torch.cuda.Event()
        self._graphs: dict[tuple[int, Grid], Any] = {}
        self._n = 0
        self._last: Callable[[], Any] = lambda: None
        self.launches = 0

    def start(self, batch: Batch) -> None:
        """See Lane."""
        layout = self._layout(bucket(len(batch.tiles), self._most_tiles))
        used = batch.write(self._pinned.numpy(), layout)
        with self._torch.cuda.stream(self._copies):
            self._sent[:used].copy_(self._pinned[:used], non_blocking=True)
        self._kernels.wait_stream(self._copies)
        self._n = batch.n
        with self._torch.cuda.stream(self._kernels):
            self._score(_views(self._sent, layout, batch, self._pool.grid))
            self._logits[: batch.n].copy_(self._scratch.logits[: batch.n], non_blocking=True)
            self._done.record(self._kernels)

    def finish(self) -> NDArray[np.float32]:
        """See Lane."""
        self._done.synchronize()
        return np.array(self._logits[: self._n].numpy())

    def replay(self) -> None:
        """Score what was sent last once more, without waiting; for the benchmark."""
        with self._torch.cuda.stream(self._kernels):
            self._last()

    @property
    def stream(self) -> Any:
        """That of the kernels."""
        return self._kernels

    def _score(self, sent: Sent) -> None:
        if not self._tower.capturable:
            self.launches = self._tower.score(sent, self._scratch)
            self._last = lambda: self._tower.score(sent, self._scratch)
            return
        key = (sent.layout.tiles, sent.grid)
        graph = self._graphs.get(key)
        if graph is None:
            # launched once as it is: kernels are compiled, and this batch has its logits
            self.launches = self._tower.score(sent, self._scratch)
            if not _RECORDING.acquire(blocking=False):
                return  # the next batch of this size is recorded
            try:
                self._graphs[key] = graph = self._recorded(sent)
            finally:
                _RECORDING.release()
        else:
            graph.replay()
        self._last = graph.replay

    def _recorded(self, sent: Sent) -> Any:
        graph = self._torch.cuda.CUDAGraph()
        # other threads' work on the device is none of this graph's business
        with self._torch.cuda.graph(graph, stream=self._kernels, capture_error_mode="thread_local"):
            self._tower.score(sent, self._scratch)
        return graph

    def _layout(self, tiles: int) -> Layout:
        return Layout(tiles, len(self._encoder.fields), self._encoder.lists)


def on_device(torch: Torch, device: Any) -> AbstractContextManager[Any]:
    """A context in which launches go to the device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _views(sent: Tensor, layout: Layout, batch: Batch, grid: Grid) -> Sent:
    return Sent(
        layout,
        sent[: 3 * layout.tiles].view(-1, 3),
        sent[layout.codes : layout.counts].view(layout.fields, layout.rows),
        sent[layout.counts : layout.tail].view(layout.lists, layout.rows),
        sent[layout.tail :],
        batch.tiles,
        grid,
    )


def _scratch(torch: Torch, rows: int, widest: int, device: Any) -> Scratch:
    low_rank = (MOST_COMPONENTS + MOST_QUERIES) * BLOCK
    widths = (widest, widest, low_rank, low_rank, 1)
    return Scratch(*(torch.empty(rows * n, device=device) for n in widths))
