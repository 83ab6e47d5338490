"""How one replica scores: bounds, waits, and which engine; read from the settings file by `service.settings`."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field

from adapters_store.tensors import TensorLimits
from service.engines.chosen import EngineName
from service.engines.native import Precision


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
