"""One replica: store, backbone, engine, slots, scorer and publisher, wired together."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from adapters_store.backbone import Backbone
from adapters_store.errors import ArtifactError, BlobMissing
from adapters_store.folding import Folded
from adapters_store.store import AdapterStore
from adapters_store.tensors import TensorLimits
from adapters_store.verification import verify_backbone
from features.errors import FeatureError
from service.auxiliary import Auxiliaries, Pins
from service.batcher import Batcher, Logits
from service.clock import Clock
from service.domains import Domains
from service.engine import Engine, Prepared, Segment
from service.engines.onnx import OnnxEngine
from service.errors import EngineFailed, StartError
from service.ladder import Ladder
from service.loader import Loader
from service.observer import Observer
from service.preparer import Preparer
from service.publisher import Publisher
from service.scorer import Scorer
from service.slots import Slot, SlotTable
from service.tables import FeatureTables
from service.threads import LOADER_NICENESS, WorkerThread
from service.watcher import Watcher


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """How one replica scores; read from the settings file by `service.settings`.

    Args:
        engine_threads: threads inside one engine run.
        rows_per_run: rows that one engine run scores at most.
        batch_rows: rows of a batch at most (a larger single request runs alone).
        batch_wait_ms: how long requests that waited behind a batch may wait for more, once the engine is free.
        queue_rows: rows that may wait for the engine.
        max_items: items of one request at most.
        cold_wait_ms: how long a request waits for a domain that is not resident.
        cold_in_flight: domains that may be pulled at once.
        reconcile_s: between two looks at every record, jittered.
        unknown_domains: ids that are remembered as unknown.
        publishes_in_flight: publishes that this replica works on at once.
        adapter_bytes: size of one artifact at most.
    """

    engine_threads: int = 1
    rows_per_run: int = 1024
    batch_rows: int = 4096
    batch_wait_ms: float = 1.0
    queue_rows: int = 65_536
    max_items: int = 4096
    cold_wait_ms: float = 200.0
    cold_in_flight: int = 64
    reconcile_s: float = 30.0
    unknown_domains: int = 10_000
    publishes_in_flight: int = 2
    adapter_bytes: int = TensorLimits().bytes


class Replica:
    """Everything that a server needs of the core; `open` makes one.

    Args:
        store: left to its owner, who closes it.
        backbone: verified with the engine.
        engine: of that backbone.
        folded: the backbone itself.
        threads: the engine's and the loader's.
        config: bounds and waits.
        observer: told what happens.
        clock: whose seconds count.
    """

    def __init__(
        self,
        store: AdapterStore,
        backbone: Backbone,
        engine: Engine,
        folded: Folded,
        threads: tuple[WorkerThread, WorkerThread],
        *,
        config: ReplicaConfig,
        observer: Observer,
        clock: Clock,
    ) -> None:
        self.store = store
        self.clock = clock
        self.backbone_revision = backbone.revision
        self._engine_thread, self._loader_thread = threads
        self.tables = FeatureTables(backbone)
        self.slots: SlotTable[str] = SlotTable(Slot.empty, observer.resident)
        self.domains = Domains(backbone.manifest.divisions, self.slots, observer, unknown_limit=config.unknown_domains)
        limits = TensorLimits(bytes=config.adapter_bytes)
        preparer = Preparer(store, backbone, engine, self._loader_thread, limits)
        self.loader = Loader(
            store, preparer, self.domains, self.slots, clock, observer, in_flight=config.cold_in_flight
        )
        auxiliary_slots: SlotTable[Pins] = SlotTable(Slot.empty, lambda adapters, size_bytes: None)
        self.auxiliaries = Auxiliaries(self.domains, self.loader, preparer, auxiliary_slots, clock)
        self.batcher = Batcher(
            partial(_run, self._engine_thread, engine),
            clock,
            observer,
            batch_rows=config.batch_rows,
            batch_wait_s=config.batch_wait_ms / 1000,
            queue_rows=config.queue_rows,
        )
        self.scorer = self._make_scorer(engine.prepare(folded), config, observer)
        self.publisher = Publisher(
            store,
            preparer,
            self.loader,
            self.domains,
            self.slots,
            self._loader_thread,
            in_flight=config.publishes_in_flight,
        )
        self.watcher = Watcher(
            store, self.domains, self.loader, clock, reconcile_s=config.reconcile_s, random=random.random
        )

    def _make_scorer(self, backbone: Prepared, config: ReplicaConfig, observer: Observer) -> Scorer:
        """The main path, on top of what is wired already."""
        ladder = Ladder(
            self.domains,
            self.slots,
            self.auxiliaries,
            self.loader,
            self.tables,
            backbone,
            self.clock,
            cold_wait_s=config.cold_wait_ms / 1000,
        )
        return Scorer(
            self.tables,
            ladder,
            self.batcher,
            self.domains,
            self.loader,
            self.backbone_revision,
            self.clock,
            observer,
            max_items=config.max_items,
        )

    @classmethod
    async def open(cls, store: AdapterStore, *, config: ReplicaConfig, observer: Observer, clock: Clock) -> Replica:
        """Read and verify the default backbone and wire the rest; nothing runs in the background yet.

        Raises:
            StartError: the store names no default backbone, or it is refused, or the engine does not reproduce it.
            adapters_store.errors.StoreError: the store failed.
        """
        record = await store.backbone_record()
        if record.default is None:
            raise StartError("the store has no default backbone: publish one with `espalier publish RUN --store URL`")
        try:
            backbone = await store.bundle(record.default)
            engine = OnnxEngine(backbone, config.engine_threads, config.rows_per_run)
            folded = verify_backbone(backbone, engine.logits)
            threads = WorkerThread("espalier-engine"), WorkerThread("espalier-loader", niceness=LOADER_NICENESS)
            return cls(store, backbone, engine, folded, threads, config=config, observer=observer, clock=clock)
        except (ArtifactError, BlobMissing, EngineFailed, FeatureError) as error:
            raise StartError(f"backbone {record.default} cannot serve: {error}") from error

    @property
    def resident_adapters(self) -> int:
        """Domains whose adapter is in memory."""
        return len(self.slots)

    async def start(self) -> None:
        """Start the watcher."""
        self.watcher.start()

    async def stop(self) -> None:
        """Stop the watcher and every load, finish what is queued, end both threads."""
        await self.watcher.stop()
        await self.loader.stop()
        await self.auxiliaries.stop()
        await self.batcher.drain()
        self._engine_thread.close()
        self._loader_thread.close()


async def _run(thread: WorkerThread, engine: Engine, segments: Sequence[Segment]) -> Logits:
    return await thread.run(partial(engine.run, segments))
