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
from adapters_store.disk import DiskCache
from adapters_store.errors import StoreError
from adapters_store.store import AdapterStore
from adapters_store.tensors import TensorLimits
from features.fields import Division
from service.activation import Activation
from service.auxiliary import Auxiliaries
from service.backbone_watch import BackboneFollower, open_default
from service.backbones import Backbones
from service.batcher import Batcher, Logits
from service.clock import Clock
from service.cores import bind
from service.domains import Domains
from service.engine import Engine, Segment, run_each
from service.engines.chosen import EngineName, Engines
from service.engines.native import Precision
from service.in_use import InUse
from service.ladder import Ladder
from service.loader import Loader
from service.observer import Observer
from service.pace import BUSY_S, Pace
from service.peers import NoPeers, Peers
from service.precedence import Precedence
from service.prepared.blobs import PreparedBlobs
from service.preparer import Preparer
from service.prewarm import Prewarmer
from service.publisher import Publisher
from service.releases import ReleaseFollower
from service.residency import Evictions
from service.scorer import Scorer
from service.serving import Serving
from service.shadow import Shadows
from service.slots import Slot, SlotTable
from service.staging import Staging
from service.switches import Switchboard
from service.tables import CurrentTables
from service.threads import LOADER_NICENESS, WorkerThread
from service.watcher import DOMAIN, Follow, Watcher


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """How one replica scores; read from the settings file by `service.settings`.

    Args:
        engine: which one; `service.engines.chosen` says what serves where it cannot run.
        precision: of the native engine.
        engine_threads: threads inside one engine run.
        engine_cpus: cores of these threads, one each, that of the calling one first; none leaves them unbound.
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
        stage_share: the same for preparing a staged release.
        prepared: keep verified and folded adapters in the disk cache, where there is one.
    """

    engine: EngineName = "onnx"
    precision: Precision = "fp32"
    engine_threads: int = 1
    engine_cpus: tuple[int, ...] = ()
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
    stage_share: float = 0.05
    prepared: bool = True


MakeEngine = Callable[[Backbone, ReplicaConfig], Engine]


class Replica:
    """Everything that a server needs of the core; `open` makes one.

    Args:
        store: the truth, for what is changed here; left to its owner, who closes it.
        serving: the default backbone.
        make_engine: for a backbone that comes beside it.
        threads: the engine's, the loader's and that on which backbones are verified.
        config: bounds and waits.
        observer: told what happens.
        clock: whose seconds count.
        reader: the same store through the disk cache, for all that is read to serve; without one, `store`.
        disk: that cache, for prepared blobs; None without one.
        peers: the other workers of this replica.
    """

    def __init__(
        self,
        store: AdapterStore,
        serving: Serving,
        make_engine: Callable[[Backbone], Engine],
        threads: tuple[WorkerThread, WorkerThread, WorkerThread],
        *,
        config: ReplicaConfig,
        observer: Observer,
        clock: Clock,
        reader: AdapterStore | None = None,
        disk: DiskCache | None = None,
        peers: Peers | None = None,
    ) -> None:
        self.store = store
        self.reader = reader or store
        self.clock = clock
        self._observer = observer
        observer.limits(config.queue_rows, config.memory_bytes)
        self._config = config
        self._peers = peers or NoPeers()
        self._threads = threads
        engine_thread, self._loader_thread, backbone_thread = threads
        self._backbones = Backbones(serving)
        self.slots, self.domains = _residency(serving.backbone, config, observer, clock)
        self._followed: dict[str, Follow] = {}
        self.backbones = BackboneFollower(
            self.reader,
            store,
            self._backbones,
            self.domains,
            self.slots,
            backbone_thread,
            make_engine,
            self._followed,
            self._backbones_moved,
            clock,
            observer,
            every_s=config.reconcile_s,
        )
        limits = TensorLimits(bytes=config.adapter_bytes)
        self._precedence = Precedence()
        self._preparer = Preparer(
            self.reader,
            self._backbones,
            self.backbones.bring,
            self._loader_thread,
            limits,
            self._precedence.give_way,
            self._make_blobs(disk, limits),
        )
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
        self.auxiliaries = Auxiliaries(self._backbones, self.domains, self.loader, self._preparer, self.slots, clock)
        self.batcher = Batcher(
            partial(_run, engine_thread),
            clock,
            observer,
            batch_rows=config.batch_rows,
            batch_wait_s=config.batch_wait_ms / 1000,
            queue_rows=config.queue_rows,
        )
        self._pace = self._make_pace(config.loader_share)
        self.switches = Switchboard(self.reader, store, observer)
        self.scorer = self._make_scorer()
        self.publisher = Publisher(
            store,
            self.reader,
            self._preparer,
            Activation(self._preparer, self.loader, self.domains, self.slots, self._peers),
            self.domains,
            self.slots,
            self._loader_thread,
            limits=limits,
            in_flight=config.publishes_in_flight,
        )
        self.releases = ReleaseFollower(
            self.reader, store, self.domains, self.slots, self.loader, clock, observer, in_flight=config.stage_in_flight
        )
        self.staging = self._make_staging()
        self.in_use = self._make_in_use(disk)
        self.prewarmer = self._make_prewarmer()
        self.watcher = self._make_watcher()

    def _make_blobs(self, disk: DiskCache | None, limits: TensorLimits) -> PreparedBlobs | None:
        """What was verified and folded before, where there is a disk to keep it on."""
        if disk is None or not self._config.prepared:
            return None
        return PreparedBlobs(
            disk,
            disk.folder,
            self._loader_thread,
            limits,
            self._precedence.give_way,
            told=self._observer.prepared,
        )

    def _make_pace(self, share: float) -> Pace:
        """What loads nobody waits for may take of a core while requests are scored."""
        return Pace(
            self.clock,
            busy=lambda: self.clock.now() - self.batcher.scored_at < BUSY_S,
            share=share,
        )

    def _make_scorer(self) -> Scorer:
        """The main path, on top of what is wired already."""
        ladder = Ladder(
            self.domains,
            self.slots,
            self.auxiliaries,
            self.loader,
            self.switches,
            self._backbones,
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
            ladder,
            self.batcher,
            shadows,
            self.domains,
            self.loader,
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
            pace=self._make_pace(self._config.stage_share),
            in_flight=self._config.stage_in_flight,
            cached=self.reader is not self.store,
        )

    def _make_in_use(self, disk: DiskCache | None) -> InUse | None:
        if disk is None:
            return None
        return InUse(disk, self._backbones, self.domains, self.slots, self.staging, self.clock)

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

    def _make_watcher(self) -> Watcher:
        self._followed |= {
            "backbone": self.backbones.follow,
            "release": self.releases.follow,
            "switches": self.switches.follow,
            "staged": self.staging.follow,
        }
        return Watcher(
            self.reader,
            self.domains,
            self.loader,
            self._followed,
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
        disk: DiskCache | None = None,
        config: ReplicaConfig,
        observer: Observer,
        clock: Clock,
        peers: Peers | None = None,
        make_engine: MakeEngine | None = None,
        told: Callable[[str, str], None] = lambda serving, reason: None,
    ) -> Replica:
        """Read and verify the default backbone, wire the rest, and read what holds for all domains.

        The other workers know of this one before anything else is read. Nothing runs in the background yet. `told` is
        called once, with what serves instead and the reason, where the configured engine cannot run.

        Raises:
            StartError: the store names no default backbone, or it is refused, or the engine does not reproduce it.
            EngineFailed: the engine's thread cannot be bound to its core.
            adapters_store.errors.StoreError: the store failed, and the disk cache does not have the backbone.
        """

        engines = Engines(told)

        def make(backbone: Backbone) -> Engine:
            if make_engine is not None:
                return make_engine(backbone, config)
            return engines.make(
                config.engine,
                backbone,
                threads=config.engine_threads,
                rows_per_run=config.rows_per_run,
                precision=config.precision,
                cpus=config.engine_cpus,
            )

        serving = await open_default(reader or store, make, observer, cached=reader is not None)
        threads = (
            WorkerThread("espalier-engine"),
            WorkerThread("espalier-loader", niceness=LOADER_NICENESS),
            WorkerThread("espalier-backbone", niceness=LOADER_NICENESS),
        )
        if config.engine_cpus:
            # left free it could land on the core of another thread of the engine, while its own stays idle
            await threads[0].run(partial(bind, config.engine_cpus[:1]))
        replica = cls(
            store,
            serving,
            make,
            threads,
            config=config,
            observer=observer,
            clock=clock,
            reader=reader,
            disk=disk,
            peers=peers,
        )
        await replica._catch_up()
        return replica

    async def _catch_up(self) -> None:
        """Join the other workers, then read the followed records; what cannot be read is left to the watcher."""
        await self._peers.start(self.loader.reach)
        for follow in list(self._followed.values()):
            try:
                await follow()
            except StoreError:
                self._observer.store_failed("start")

    def _backbones_moved(self) -> None:
        """Another default, or others in memory: what was decided by them is decided anew."""
        self.domains.divide(_divisions(self._backbones))
        self.auxiliaries.forget()
        self.staging.reconsider()
        self.watcher.notice(["staged", *(DOMAIN + domain for domain in self.domains.reconsider())])

    @property
    def backbone_revision(self) -> str:
        """Of the default bundle that serves here."""
        return self._backbones.default.revision

    @property
    def tables(self) -> CurrentTables:
        """The feature tables of the default backbone."""
        return self._backbones.default.tables

    @property
    def resident_adapters(self) -> int:
        """Domains whose adapter is in memory."""
        return self.slots.domains

    async def start(self) -> None:
        """Load pinned and busy domains, within `prewarm_s`; watch, report and count from then on."""
        self.watcher.start()
        self.backbones.start()
        if self._config.prewarm_s > 0:
            await self.prewarmer.warm()
        self.prewarmer.start()
        self.staging.start()
        if self.in_use is not None:
            self.in_use.start()

    async def settled(self) -> None:
        """Wait until what was loaded is kept on the disk."""
        await self._preparer.settled()

    async def stop(self) -> None:
        """Stop the watcher and every load, finish what is queued, end the threads."""
        await self.watcher.stop()
        await self.backbones.stop()
        if self.in_use is not None:
            await self.in_use.stop()
        await self.prewarmer.stop()
        await self.staging.stop()
        await self.releases.stop()
        await self._peers.stop()
        await self.loader.stop()
        await self.auxiliaries.stop()
        await self._preparer.stop()
        await self.batcher.drain()
        for thread in self._threads:
            thread.close()


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


def _divisions(backbones: Backbones) -> list[Division]:
    """Those of every backbone in memory, the default's last."""
    return [division for serving in reversed(list(backbones)) for division in serving.backbone.manifest.divisions]


async def _run(thread: WorkerThread, segments: Sequence[Segment]) -> Logits:
    return await thread.run(partial(run_each, segments))
