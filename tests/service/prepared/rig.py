"""A preparer on a store and a disk cache, without the server around it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters_store.backbone import Backbone, read_bundle
from adapters_store.disk import DiskCache
from adapters_store.folding import Folded
from adapters_store.pausing import no_pause
from adapters_store.store import AdapterStore
from adapters_store.tensors import TensorLimits
from benchmarks.forge import Run
from features.rows import EncodedRows
from service.backbones import Backbones
from service.engine import Engine, Segment
from service.engines.onnx import OnnxEngine
from service.prepared.blobs import PreparedBlobs
from service.prepared.mapping import Mappings
from service.prepared.outcome import Outcome
from service.preparer import Preparer
from service.serving import Serving, verified_serving
from service.slots import Slot
from service.threads import WorkerThread
from tests.service.core import FaultyBackend, filled

DOMAIN, OTHER = "theme-1", "theme-2"
ROOMY = 1 << 30


class CountingEngine(OnnxEngine):
    """The portable engine, counting what it verifies."""

    checked = 0

    def logits(self, rows: EncodedRows, folded: Folded) -> NDArray[np.float64]:
        """See Engine."""
        self.checked += 1
        return super().logits(rows, folded)


@dataclass
class Rig:
    """One worker's way from artifacts to slots."""

    run: Run
    backend: FaultyBackend
    store: AdapterStore
    serving: Serving
    blobs: PreparedBlobs | None
    preparer: Preparer
    thread: WorkerThread
    outcomes: Counter[str]
    mappings: Mappings
    faults: list[str]

    def body(self, domain: str = DOMAIN, mode: str = "attention") -> bytes:
        """An artifact of the run."""
        return self.run.natural(mode)[domain].read_bytes()

    async def load(self, body: bytes, domain: str = DOMAIN) -> Slot:
        """The slot of an artifact that the store has; what is to be kept is on the disk then."""
        slot = await self.preparer.slot_of_revision(domain, await self.store.put(body))
        if self.blobs is not None:
            await self.blobs.settle()
        return slot

    def bits(self, slot: Slot, rows: EncodedRows | None = None) -> list[bytes]:
        """Logits of the golden rows by each combination."""
        taken = self.serving.backbone.golden()[0] if rows is None else rows
        engine = self.serving.engine
        return [engine.run([Segment(taken, own, engine)])[0].tobytes() for own in slot.combinations.values()]


MakeEngine = Callable[[Backbone], Engine]


@asynccontextmanager
async def rigged(
    run: Run,
    folder: Path | None,
    *,
    make: MakeEngine = CountingEngine,
    limit_bytes: int = ROOMY,
    limits: TensorLimits | None = None,
    mappings: int = 100,
    patience_s: float = 0.05,
) -> AsyncIterator[Rig]:
    """A worker of its own.

    Args:
        run: the artifacts.
        folder: of the disk cache; None, and nothing is kept.
        make: the engine.
        limit_bytes: of the disk cache.
        limits: what adapters are held to.
        mappings: that there may be at once.
        patience_s: the longest wait for another process.
    """
    backend, limits = await filled(run), limits or TensorLimits()
    store, thread = AdapterStore(backend, lambda: 0.0), WorkerThread("loader")
    backbone = read_bundle(run.folder / "bundle")
    serving = verified_serving(backbone, make(backbone))
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    own, blobs = Mappings(mappings), None

    def told(outcome: Outcome) -> None:
        outcomes[outcome] += 1

    async def bring(fingerprint: str) -> Serving:
        return serving

    if folder is not None:
        cache = DiskCache(folder, limit_bytes, on_fault=faults.append)
        blobs = PreparedBlobs(cache, folder, thread, limits, no_pause, told=told, patience_s=patience_s, mappings=own)
    preparer = Preparer(store, Backbones(serving), bring, thread, limits, no_pause, blobs)
    try:
        yield Rig(run, backend, store, serving, blobs, preparer, thread, outcomes, own, faults)
    finally:
        await preparer.stop()
        thread.close()


def files(folder: Path) -> list[Path]:
    """Every blob of a disk cache."""
    return sorted(path for path in folder.rglob("blobs/*/*") if path.is_file())
