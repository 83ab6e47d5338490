"""A replica on a memory store whose every fault can be called up, for tests of the service core."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store.artifact import encode_adapter
from adapters_store.backbone import Backbone
from adapters_store.backend import Changes, Versioned
from adapters_store.bounds import ANY_BLOB, Bound
from adapters_store.cached import CachedBackend
from adapters_store.disk import DiskCache
from adapters_store.errors import StoreRefused, StoreUnavailable
from adapters_store.manifest import AdapterManifest
from adapters_store.memory import MemoryBackend
from adapters_store.records import DomainRecord
from adapters_store.store import AdapterStore
from benchmarks.forge import Run, digest, forge
from benchmarks.oracle_files import AdapterFile, read_safetensors
from service.clock import Clock, LoopClock
from service.engine import Segment
from service.engines.onnx import OnnxEngine
from service.errors import EngineFailed
from service.observer import SilentObserver
from service.peers import Peers
from service.published import Published
from service.replica import Replica
from service.replica_config import ReplicaConfig
from service.scorer import ScoreRequest, ScoreResult

DAY_S = 86_400.0
TOLERANCE = 2e-6


class FaultyBackend(MemoryBackend):
    """A memory store that can be held up or away, and counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.failing: set[str] = set()  # what alone is away, named as in `reads`
        self.open = asyncio.Event()
        self.open.set()
        self.reads: Counter[str] = Counter()
        self.bounds: dict[str, Bound] = {}  # under which each blob was read last
        self.refusing: str | None = None  # why nothing may be written
        self.lost: set[str] = set()
        self.damaged: set[str] = set()
        self.held: str | None = None  # the record or blob whose next reads are answered late, from before
        self.reading: asyncio.Future[None] | None = None
        self.meanwhile: Callable[[], object] = lambda: None  # happens between a record's change and its reply
        self.stored: Callable[[], object] = lambda: None  # happens after bytes were stored

    async def get_blob(self, digest: str, bound: Bound = ANY_BLOB) -> bytes:
        """See Backend."""
        self.bounds[digest] = bound
        await self._pass(digest)
        content = await super().get_blob("lost" if digest in self.lost else digest, bound)
        await self._hold(digest)
        return content[:-1] if digest in self.damaged else content

    async def has_blob(self, digest: str) -> bool:
        """See Backend."""
        await self._pass("has")
        return digest not in self.lost and await super().has_blob(digest)

    async def put_blob(self, digest: str, content: bytes) -> None:
        """See Backend."""
        await self._pass("put")
        self.lost.discard(digest)
        self.damaged.discard(digest)
        await super().put_blob(digest, content)
        self.stored()

    async def read_record(self, key: str) -> Versioned | None:
        """See Backend."""
        await self._pass(key)
        record = await super().read_record(key)
        await self._hold(key)
        return record

    def restore(self, key: str, record: Versioned) -> None:
        """Put back a record from a backup, whatever is there now."""
        self._records[key] = record

    def forget(self, key: str) -> None:
        """Lose a record altogether."""
        del self._records[key]

    async def compare_and_set(self, key: str, expected: int, record: Mapping[str, Any]) -> bool:
        """See Backend."""
        await self._pass("compare_and_set")
        if self.refusing is not None:
            raise StoreRefused(self.refusing)
        done = await super().compare_and_set(key, expected, record)
        self.meanwhile()
        return done

    async def versions(self, prefix: str) -> dict[str, str]:
        """See Backend."""
        await self._pass("versions")
        return await super().versions(prefix)

    async def changes(self, position: str | None, wait_s: float) -> Changes:
        """See Backend; asks as a feed does that waits for nothing."""
        await self._pass("changes")
        return await super().changes(position, wait_s)

    async def _hold(self, what: str) -> None:
        if what == self.held:
            self.reading = asyncio.get_running_loop().create_future()
            await self.reading

    async def _pass(self, what: str) -> None:
        self.reads[what] += 1
        await self.open.wait()
        if self.away or what in self.failing:
            raise StoreUnavailable("the store is away")


@dataclass
class Ledger(SilentObserver):
    """An observer that keeps what it is told."""

    fallbacks: Counter[str] = field(default_factory=Counter)
    loads: Counter[str] = field(default_factory=Counter)
    blobs: Counter[str] = field(default_factory=Counter)
    activations: list[tuple[str, str, int]] = field(default_factory=list)
    rejections: list[tuple[str, str, str]] = field(default_factory=list)
    residents: list[int] = field(default_factory=list)
    evictions: list[tuple[str, float]] = field(default_factory=list)
    churned: list[tuple[int, int]] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    refusals: list[str] = field(default_factory=list)
    stagings: list[tuple[str | None, int, int]] = field(default_factory=list)
    compared: list[tuple[NDArray[np.float64], float | None]] = field(default_factory=list)
    dropped: int = 0
    canary_rows: int = 0
    resyncs: int = 0
    switched: list[bool] = field(default_factory=list)
    swaps: list[tuple[str, str, int]] = field(default_factory=list)
    table_sizes: dict[str, int] = field(default_factory=dict)
    warmed: list[int] = field(default_factory=list)
    resident_backbones: list[tuple[str | None, ...]] = field(default_factory=list)
    untold: list[int] = field(default_factory=list)

    def reconciled(self, untold: int) -> None:
        """See Observer."""
        self.untold.append(untold)

    def evicted(self, domain: str, age_s: float) -> None:
        """See Observer."""
        self.evictions.append((domain, age_s))

    def churn(self, evictions: int, limit_bytes: int) -> None:
        """See Observer."""
        self.churned.append((evictions, limit_bytes))

    def store_failed(self, operation: str) -> None:
        """See Observer."""
        self.failures[operation] += 1

    def store_refused(self, reason: str) -> None:
        """See Observer."""
        self.refusals.append(reason)

    def staged(self, release: str | None, prepared: int, of: int) -> None:
        """See Observer."""
        self.stagings.append((release, prepared, of))

    def shadow_scored(self, differences: NDArray[np.float64], rank_correlation: float | None) -> None:
        """See Observer."""
        self.compared.append((differences, rank_correlation))

    def shadow_dropped(self) -> None:
        """See Observer."""
        self.dropped += 1

    def canary_scored(self, rows: int) -> None:
        """See Observer."""
        self.canary_rows += rows

    def feed(self, lag_s: float | None, resync: bool) -> None:
        """See Observer."""
        self.resyncs += resync

    def backbone_only(self, on: bool) -> None:
        """See Observer."""
        self.switched.append(on)

    def backbones(self, default: str | None, beside: str | None, refused: str | None, reason: str | None) -> None:
        """See Observer."""
        self.resident_backbones.append((default, beside, refused, reason))

    def table_rows(self, side: str, rows: int) -> None:
        """See Observer."""
        self.table_sizes[side] = rows

    def tables_swapped(self, side: str, revision: str, rows: int) -> None:
        """See Observer."""
        self.swaps.append((side, revision, rows))

    def prewarmed(self, domains: int, seconds: float) -> None:
        """See Observer."""
        self.warmed.append(domains)

    def fallback(self, reason: str) -> None:
        """See Observer."""
        self.fallbacks[reason] += 1

    def prepared(self, outcome: str) -> None:
        """See Observer."""
        self.blobs[outcome] += 1

    def adapter_loaded(self, outcome: str) -> None:
        """See Observer."""
        self.loads[outcome] += 1

    def activated(
        self, domain: str, revision: str, generation: int, *, before: str | None = None, by: str = ""
    ) -> None:
        """See Observer."""
        self.activations.append((domain, revision, generation))

    def rejected(self, domain: str, revision: str, reason: str, *, by: str = "", kind: str = "") -> None:
        """See Observer."""
        self.rejections.append((domain, revision, reason))

    def resident(self, adapters: int, size_bytes: int) -> None:
        """See Observer."""
        self.residents.append(adapters)


class TappedEngine(OnnxEngine):
    """The engine, with what it is given kept, and failing on what a test names.

    Args:
        backbone: see OnnxEngine.
        config: of the replica.
    """

    def __init__(self, backbone: Backbone, config: ReplicaConfig) -> None:
        super().__init__(backbone, config.engine_threads, config.rows_per_run)
        self.batches: list[list[Segment]] = []
        self.failing: list[Any] = []

    def run(self, segments: Sequence[Segment]) -> list[NDArray[np.float64]]:
        """See Engine."""
        self.batches.append(list(segments))
        if any(segment.prepared is one for segment in segments for one in self.failing):
            raise EngineFailed("the engine fails")
        return super().run(segments)


@dataclass
class Core:
    """One replica, its store, and the run whose artifacts it holds."""

    run: Run
    backend: FaultyBackend
    store: AdapterStore
    replica: Replica
    ledger: Ledger
    clock: Clock
    engine: TappedEngine
    engines: list[TappedEngine]

    def __post_init__(self) -> None:
        self.oracle = self.run.oracle
        self.auxiliaries = self.run.auxiliaries()
        self.fusion = self.run.fusion()
        self.items = list(self.oracle.index["item"])
        self.users = list(self.oracle.index["user"])

    def body(self, domain: str, mode: str | None = None) -> bytes:
        """An artifact of the run."""
        folder = "adapters" if mode is None else f"ablations/{mode}"
        return (self.run.folder / folder / f"{domain}.safetensors").read_bytes()

    def dye(self, domain: str, intercept: float, slope: float = 1.0) -> bytes:
        """A revision told apart by its calibration and by its tensors."""

        def edit(tensors: dict[str, Any], manifest: dict[str, Any]) -> None:
            manifest["calibration"] = {"slope": slope, "intercept": intercept}
            tensors["tower.0.shift"] = tensors["tower.0.shift"] + np.float32(0.01 * np.tanh(intercept))

        return forge(self.body(domain), edit, self.oracle, self.auxiliaries, self.fusion)

    def renamed(self, domain: str, name: str) -> bytes:
        """A domain's artifact under another domain's name; its golden rows are its own."""
        tensors, manifest = read_safetensors(self.body(domain))
        return encode_adapter(AdapterManifest.model_validate({**manifest, "domain": name}), tensors)

    def repinned(self, domain: str, auxiliary: str, revision: str) -> bytes:
        """A domain's artifact that pins another revision for one auxiliary domain."""
        tensors, manifest = read_safetensors(self.body(domain))
        fuses = {**manifest["fuses"], auxiliary: revision}
        return encode_adapter(AdapterManifest.model_validate({**manifest, "fuses": fuses}), tensors)

    def broken(self, domain: str, shift: float = 1.0) -> bytes:
        """A well-formed artifact whose golden rows no engine reproduces."""
        tensors, manifest = read_safetensors(self.body(domain))
        tensors["golden.logits"] = tensors["golden.logits"] + shift
        return encode_adapter(AdapterManifest.model_validate(manifest), tensors)

    async def put_live(self, domain: str, body: bytes | None = None) -> DomainRecord:
        """Another writer publishes: the store alone hears of it."""
        body = self.body(domain) if body is None else body
        division = str(read_safetensors(body)[1]["division"])
        return await self.store.set_live(domain, division, await self.store.put(body), "someone")

    async def publish(self, domain: str, body: bytes | None = None, **options: Any) -> Published:
        """Publish through the replica."""
        body = self.body(domain) if body is None else body
        options = {"claimed_digest": digest(body), "by": "test", **options}
        return await self.replica.publisher.publish(domain, body, **options)

    async def score(self, domain: str, items: Sequence[str | int] = (), **options: Any) -> ScoreResult:
        """Score a few items for the first user."""
        return await self.replica.scorer.score(self.request(domain, items or self.items[:5], **options))

    def request(self, domain: str, items: Sequence[str | int], **options: Any) -> ScoreRequest:
        """A request of the first user."""
        options = {"user_id": self.users[0], "deadline": self.clock.now() + DAY_S, **options}
        return ScoreRequest(domain_id=domain, item_ids=items, **options)

    def expected(
        self, domain: str, body: bytes | None, user: str | None = None, items: Sequence[str] = ()
    ) -> NDArray[np.float64]:
        """What the oracle says; without a body, of the backbone."""
        adapter = None if body is None else AdapterFile(body)
        scores: NDArray[np.float64] = self.oracle.score(
            user or self.users[0], domain, items or self.items[:5], adapter, self.auxiliaries, self.fusion
        )
        return scores

    def auxiliary_of(self, division: str, user: str) -> str | None:
        """The auxiliary domain of a user."""
        return self.oracle.auxiliary_domain(division, user, "")


async def filled(run: Run) -> FaultyBackend:
    """A store with the run's bundle, fusion and auxiliary blobs; no domain has a record yet."""
    backend = FaultyBackend()
    store = AdapterStore(backend, lambda: 0.0)
    await store.publish_backbone(run.folder / "bundle", "test")
    await store.put((run.folder / "fusion.safetensors").read_bytes())
    for domain in run.auxiliaries():
        await store.put((run.folder / "adapters" / f"{domain}.safetensors").read_bytes())
    return backend


@asynccontextmanager
async def opened(
    run: Run,
    clock: Clock | None = None,
    *,
    on: FaultyBackend | None = None,
    cache: Path | None = None,
    cache_bytes: int = 1 << 30,
    peers: Peers | None = None,
    **config: Any,
) -> AsyncIterator[Core]:
    """A replica that is not started.

    Args:
        run: the artifacts.
        clock: real if none is given.
        on: the store; a freshly filled one if none is given.
        cache: folder of the disk cache; none without it.
        cache_bytes: that it may hold.
        peers: the other workers.
        config: of the replica.
    """
    backend = on or await filled(run)
    store = AdapterStore(backend, lambda: 0.0)
    disk = None if cache is None else DiskCache(cache, cache_bytes)
    reader = None if disk is None else AdapterStore(CachedBackend(backend, disk), lambda: 0.0)
    clock = clock or LoopClock()
    ledger = Ledger()
    engines: list[TappedEngine] = []

    def make_engine(backbone: Backbone, config: ReplicaConfig) -> TappedEngine:
        engines.append(TappedEngine(backbone, config))
        return engines[-1]

    replica = await Replica.open(
        store,
        reader=reader,
        disk=disk,
        config=ReplicaConfig(**{"cold_wait_ms": 10_000.0, **config}),
        observer=ledger,
        clock=clock,
        peers=peers,
        make_engine=make_engine,
    )
    try:
        yield Core(run, backend, store, replica, ledger, clock, engines[0], engines)
    finally:
        backend.open.set()
        await replica.stop()


def assert_scores(result: ScoreResult, expected: NDArray[np.float64]) -> None:
    """The service's probabilities are the oracle's."""
    np.testing.assert_allclose(result.scores, expected, rtol=0, atol=TOLERANCE)
