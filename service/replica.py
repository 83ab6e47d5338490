"""One replica: stores, backbone, engine, slots, scorer, publisher and watcher, wired together."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from adapters_store.backbone import Backbone
from adapters_store.errors import ArtifactError, BlobMissing, StoreError
from adapters_store.folding import Folded
from adapters_store.store import AdapterStore
from adapters_store.tensors import TensorLimits
from adapters_store.verification import verify_backbone
from features.errors import FeatureError
from service.auxiliary import Auxiliaries
from service.batcher import Batcher, Logits
from service.clock import Clock
from service.domains import Domains
from service.engine import Engine, Prepared, Segment
from service.engines.onnx import OnnxEngine
from service.errors import EngineFailed, StartError
from service.ladder import Ladder
from service.loader import Loader
from service.observer import Observer
from service.pace import BUSY_S, Pace
from service.peers import NoPeers, Peers
from service.precedence import Precedence
from service.preparer import Preparer
from service.prewarm import Prewarmer
from service.publisher import Publisher
from service.releases import ReleaseFollower
from service.residency import Evictions
from service.scorer import Scorer
from service.shadow import Shadows
from service.slots import Slot, SlotTable
from service.staging import Staging
from service.switches import Switchboard
from service.table_watch import TableFollower
from service.tables import CurrentTables, FeatureTables
from service.threads import LOADER_NICENESS, WorkerThread
from service.watcher import Follow, Watcher


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
        memory_bytes: prepared adapters in memory; only leased and pinned ones may exceed it.
        pinned: domains that are never evicted.
        prewarm_s: how long loading pinned and busy domains may delay the start.
        prewarm_every_s: between two lists of this replica's busiest domains.
        prewarm_domains: length of such a list; 0 neither reads nor writes one.
        feed: whether the store's feed is followed between two looks at every record.
        replica_id: names this replica in what it reports to the store.
        stage_in_flight: revisions of a release that are fetched or prepared at once.
        loader_share: of one core that changes of others may take while requests are scored.
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
    memory_bytes: int = 2 << 30
    pinned: tuple[str, ...] = ()
    prewarm_s: float = 20.0
    prewarm_every_s: float = 300.0
    prewarm_domains: int = 1000
    feed: bool = True
    replica_id: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}")
    stage_in_flight: int = 8
    loader_share: float = 0.01


MakeEngine = Callable[[Backbone, ReplicaConfig], Engine]


class Replica:
    """Everything that a server needs of the core; `open` makes one.

    Args:
        store: the truth, for what is changed here; left to its owner, who closes it.
        backbone: verified with the engine.
        engine: of that backbone.
        folded: the backbone itself.
        threads: the engine's and the loader's.
        config: bounds and waits.
        observer: told what happens.
        clock: whose seconds count.
        reader: the same store through the disk cache, for all that is read to serve; without one, `store`.
        peers: the other workers of this replica.
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
        reader: AdapterStore | None = None,
        peers: Peers | None = None,
    ) -> None:
        self.store = store
        self.reader = reader or store
        self.clock = clock
        self.backbone_revision = backbone.revision
        self._observer = observer
        self._config = config
        self._peers = peers or NoPeers()
        self._engine_thread, self._loader_thread = threads
        self.tables = CurrentTables(FeatureTables(backbone))
        self.slots, self.domains = _residency(backbone, config, observer, clock)
        limits = TensorLimits(bytes=config.adapter_bytes)
        self._precedence = Precedence()
        self._preparer = Preparer(self.reader, backbone, engine, self._loader_thread, limits, self._precedence.give_way)
        self.loader = Loader(
            self.reader,
            store,
            self._preparer,
            self.domains,
            self.slots,
            clock,
            observer,
            in_flight=config.cold_in_flight,
        )
        self.auxiliaries = Auxiliaries(self.domains, self.loader, self._preparer, self.slots, clock)
        self.batcher = Batcher(
            partial(_run, self._engine_thread, engine),
            clock,
            observer,
            batch_rows=config.batch_rows,
            batch_wait_s=config.batch_wait_ms / 1000,
            queue_rows=config.queue_rows,
        )
        self._pace = Pace(
            clock,
            spent=lambda: self._loader_thread.spent_s,
            busy=lambda: clock.now() - self.batcher.scored_at < BUSY_S,
            share=config.loader_share,
        )
        self.switches = Switchboard(self.reader, store, observer)
        self.scorer = self._make_scorer(engine.prepare(folded))
        self.publisher = Publisher(
            store,
            self.reader,
            self._preparer,
            self.loader,
            self.domains,
            self.slots,
            self._loader_thread,
            self._peers,
            in_flight=config.publishes_in_flight,
        )
        self.releases = ReleaseFollower(
            self.reader, store, self.domains, self.slots, self.loader, clock, observer, in_flight=config.stage_in_flight
        )
        self.staging = self._make_staging()
        self.prewarmer = self._make_prewarmer()
        self.watcher = self._make_watcher(backbone)

    def _make_scorer(self, backbone: Prepared) -> Scorer:
        """The main path, on top of what is wired already."""
        ladder = Ladder(
            self.domains,
            self.slots,
            self.auxiliaries,
            self.loader,
            self.switches,
            backbone,
            self.clock,
            precedence=self._precedence,
            cold_wait_s=self._config.cold_wait_ms / 1000,
        )
        shadows = Shadows(
            self.domains,
            self.slots,
            self._observer,
            crowded=lambda: self.batcher.half_full,
            random=random.random,
        )
        return Scorer(
            self.tables,
            ladder,
            self.batcher,
            shadows,
            self.domains,
            self.loader,
            self.backbone_revision,
            self.clock,
            self._observer,
            precedence=self._precedence,
            max_items=self._config.max_items,
        )

    def _make_staging(self) -> Staging:
        return Staging(
            self.reader,
            self.store,
            self.domains,
            self.slots,
            self._preparer,
            self.clock,
            self._observer,
            replica_id=self._config.replica_id,
            pace=self._pace,
            in_flight=self._config.stage_in_flight,
            cached=self.reader is not self.store,
        )

    def _make_prewarmer(self) -> Prewarmer:
        return Prewarmer(
            self.reader,
            self.store,
            self.loader,
            self.slots,
            self.clock,
            self._observer,
            pinned=self._config.pinned,
            limit_s=self._config.prewarm_s,
            every_s=self._config.prewarm_every_s,
            domains=self._config.prewarm_domains,
        )

    def _make_watcher(self, backbone: Backbone) -> Watcher:
        followed: dict[str, Follow] = {
            "release": self.releases.follow,
            "switches": self.switches.follow,
            "staged": self.staging.follow,
        }
        tables = TableFollower(self.reader, self.store, backbone, self.tables, self._observer)
        followed |= {key: partial(tables.follow, side) for side, key in tables.keys.items()}
        self._followed = followed
        return Watcher(
            self.reader,
            self.domains,
            self.loader,
            followed,
            self.clock,
            self._observer,
            reconcile_s=self._config.reconcile_s,
            feed=self._config.feed,
            random=random.random,
            wall=time.time,
            pace=self._pace,
        )

    @classmethod
    async def open(
        cls,
        store: AdapterStore,
        *,
        reader: AdapterStore | None = None,
        config: ReplicaConfig,
        observer: Observer,
        clock: Clock,
        peers: Peers | None = None,
        make_engine: MakeEngine = lambda backbone, config: OnnxEngine(
            backbone, config.engine_threads, config.rows_per_run
        ),
    ) -> Replica:
        """Read and verify the default backbone, wire the rest, and read what holds for all domains.

        The other workers know of this one before anything else is read. Nothing runs in the background yet.

        Raises:
            StartError: the store names no default backbone, or it is refused, or the engine does not reproduce it.
            adapters_store.errors.StoreError: the store failed, and the disk cache does not have the backbone.
        """
        read = reader or store
        record = await read.backbone_record()
        if record.default is None:
            raise StartError("the store has no default backbone: publish one with `espalier publish RUN --store URL`")
        try:
            backbone = await read.bundle(record.default)
            engine = make_engine(backbone, config)
            folded = verify_backbone(backbone, engine.logits)
            threads = WorkerThread("espalier-engine"), WorkerThread("espalier-loader", niceness=LOADER_NICENESS)
            replica = cls(
                store,
                backbone,
                engine,
                folded,
                threads,
                config=config,
                observer=observer,
                clock=clock,
                reader=reader,
                peers=peers,
            )
        except (ArtifactError, BlobMissing, EngineFailed, FeatureError) as error:
            raise StartError(f"backbone {record.default} cannot serve: {error}") from error
        await replica._catch_up()
        return replica

    async def _catch_up(self) -> None:
        """Join the other workers, then read the followed records; what cannot be read is left to the watcher."""
        await self._peers.start(self.loader.reach)
        for follow in self._followed.values():
            try:
                await follow()
            except StoreError:
                self._observer.store_failed("start")

    @property
    def resident_adapters(self) -> int:
        """Domains whose adapter is in memory."""
        return self.slots.domains

    async def start(self) -> None:
        """Load pinned and busy domains, within `prewarm_s`; watch, report and count from then on."""
        self.watcher.start()
        if self._config.prewarm_s > 0:
            await self.prewarmer.warm()
        self.prewarmer.start()
        self.staging.start()

    async def stop(self) -> None:
        """Stop the watcher and every load, finish what is queued, end both threads."""
        await self.watcher.stop()
        await self.prewarmer.stop()
        await self.staging.stop()
        await self.releases.stop()
        await self._peers.stop()
        await self.loader.stop()
        await self.auxiliaries.stop()
        await self.batcher.drain()
        self._engine_thread.close()
        self._loader_thread.close()


def _residency(
    backbone: Backbone, config: ReplicaConfig, observer: Observer, clock: Clock
) -> tuple[SlotTable, Domains]:
    """Slots within the bound, and the domains that hear of evictions."""
    evictions = Evictions(
        lambda domain: domains.forget(domain), observer, limit_bytes=config.memory_bytes, now=clock.now
    )
    slots = SlotTable(
        Slot.empty,
        observer.resident,
        limit_bytes=config.memory_bytes,
        pinned=config.pinned,
        evicted=evictions.evicted,
        now=clock.now,
    )
    domains = Domains(backbone.manifest.divisions, slots, observer, unknown_limit=config.unknown_domains)
    return slots, domains


async def _run(thread: WorkerThread, engine: Engine, segments: Sequence[Segment]) -> Logits:
    return await thread.run(partial(engine.run, segments))
