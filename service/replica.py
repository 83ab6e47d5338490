"""One replica: its parts, wired together in `service.assembly`, and their life from opening to stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from adapters_store.backbone import Backbone
from adapters_store.disk import DiskCache
from adapters_store.errors import StoreError
from adapters_store.store import AdapterStore
from service.assembly.environment import Environment, Threads
from service.assembly.following import following
from service.assembly.loading import loading
from service.assembly.publishing import publishing
from service.assembly.residents import residents
from service.assembly.scoring import scoring
from service.backbone_watch import open_default
from service.clock import Clock
from service.cores import bind
from service.engine import Engine
from service.engines.chosen import Engines
from service.observer import Observer
from service.peers import NoPeers, Peers
from service.replica_config import ReplicaConfig
from service.serving import Serving
from service.tables import CurrentTables
from service.threads import LOADER_NICENESS, WorkerThread
from service.watcher import DOMAIN, Follow

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
        engine_thread, loader_thread, backbone_thread = threads
        self._given = given = Environment(
            store=store,
            reader=reader or store,
            disk=disk,
            threads=Threads(engine=engine_thread, loader=loader_thread, backbone=backbone_thread),
            peers=peers or NoPeers(),
            config=config,
            observer=observer,
            clock=clock,
        )
        observer.limits(config.queue_rows, config.memory_bytes)
        self._followed: dict[str, Follow] = {}
        self._held = held = residents(given, serving)
        self._load = load = loading(given, held, make_engine, self._followed, self._backbones_moved)
        score = scoring(given, held, load)
        self.publisher = publishing(given, held, load)
        follow = following(given, held, load, score, self._followed)
        self.store, self.reader, self.clock = given.store, given.reader, given.clock
        self.slots, self.domains = held.slots, held.domains
        self.backbones, self.loader, self.auxiliaries = load.backbones, load.loader, load.auxiliaries
        self.switches, self.batcher, self.scorer = score.switches, score.batcher, score.scorer
        self.releases, self.staging, self.in_use = follow.releases, follow.staging, follow.in_use
        self.prewarmer, self.watcher = follow.prewarmer, follow.watcher

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
        await self._given.peers.start(self.loader.reach)
        for follow in list(self._followed.values()):
            try:
                await follow()
            except StoreError:
                self._given.observer.store_failed("start")

    def _backbones_moved(self) -> None:
        """Another default, or others in memory: what was decided by them is decided anew."""
        self.domains.divide(self._held.divisions())
        self.auxiliaries.forget()
        self.staging.reconsider()
        self.watcher.notice(["staged", *(DOMAIN + domain for domain in self.domains.reconsider())])

    @property
    def backbone_revision(self) -> str:
        """Of the default bundle that serves here."""
        return self._held.backbones.default.revision

    @property
    def tables(self) -> CurrentTables:
        """The feature tables of the default backbone."""
        return self._held.backbones.default.tables

    @property
    def resident_adapters(self) -> int:
        """Domains whose adapter is in memory."""
        return self.slots.domains

    async def start(self) -> None:
        """Load pinned and busy domains, within `prewarm_s`; watch, report and count from then on."""
        self.watcher.start()
        self.backbones.start()
        if self._given.config.prewarm_s > 0:
            await self.prewarmer.warm()
        self.prewarmer.start()
        self.staging.start()
        if self.in_use is not None:
            self.in_use.start()

    async def settled(self) -> None:
        """Wait until what was loaded is kept on the disk."""
        await self._load.preparer.settled()

    async def stop(self) -> None:
        """Stop the watcher and every load, finish what is queued, end the threads."""
        await self.watcher.stop()
        await self.backbones.stop()
        if self.in_use is not None:
            await self.in_use.stop()
        await asyncio.gather(self.prewarmer.stop(), self.staging.stop())  # each may wait for the store
        await self.releases.stop()
        await self._given.peers.stop()
        await self.loader.stop()
        await self.auxiliaries.stop()
        await self._load.preparer.stop()
        await self.batcher.drain()
        self._given.threads.close()
