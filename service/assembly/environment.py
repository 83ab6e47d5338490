"""What a replica is given, for all of its parts."""

from __future__ import annotations

from dataclasses import dataclass

from adapters_store.disk import DiskCache
from adapters_store.store import AdapterStore
from adapters_store.tensors import TensorLimits
from service.clock import Clock
from service.observer import Observer
from service.peers import Peers
from service.replica_config import ReplicaConfig
from service.threads import WorkerThread


@dataclass(frozen=True, slots=True, kw_only=True)
class Threads:
    """What runs beside the event loop.

    Args:
        engine: scores.
        loader: verifies, folds and prepares adapters.
        backbone: reads and verifies backbones.
    """

    engine: WorkerThread
    loader: WorkerThread
    backbone: WorkerThread

    def close(self) -> None:
        """End them, the engine's first."""
        for thread in (self.engine, self.loader, self.backbone):
            thread.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The world of one replica.

    Args:
        store: the truth, for what is changed here.
        reader: the same store through the disk cache, for all that is read to serve; without one, `store`.
        disk: that cache, for prepared blobs; None without one.
        threads: what runs beside the event loop.
        peers: the other workers of this replica.
        config: bounds and waits.
        observer: told what happens.
        clock: whose seconds count.
    """

    store: AdapterStore
    reader: AdapterStore
    disk: DiskCache | None
    threads: Threads
    peers: Peers
    config: ReplicaConfig
    observer: Observer
    clock: Clock

    @property
    def cached(self) -> bool:
        """Whether what is read here may be on this disk although the store does not answer."""
        return self.reader is not self.store

    @property
    def limits(self) -> TensorLimits:
        """What an artifact may be at most."""
        return TensorLimits(bytes=self.config.adapter_bytes)
