"""The store of a service, twice: the truth for what publishes, and as read through the local disk cache."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from structlog.typing import FilteringBoundLogger

from adapters_store.backend import Backend
from adapters_store.cached import CachedBackend
from adapters_store.disk import DiskCache
from adapters_store.errors import StoreError
from adapters_store.store import AdapterStore
from adapters_store.timed import TimedBackend, Told
from adapters_store.urls import open_backend
from service.errors import StartError
from service.observer import Observer
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Stores:
    """Two views of one truth.

    Args:
        store: reads and writes the truth itself.
        reader: reads what the disk cache has from there, also while the truth is away; without a cache, `store`.
        disk: the disk cache; None without one.
    """

    store: AdapterStore
    reader: AdapterStore
    disk: DiskCache | None


@asynccontextmanager
async def open_stores(settings: Settings, log: FilteringBoundLogger, observer: Observer) -> AsyncIterator[Stores]:
    """The stores of the settings; closed at the end.

    Args:
        settings: the store's URL and time bound, the cache's folder and size.
        log: told what the disk cache had to skip.
        observer: told of every call to the store.

    Raises:
        StartError: the store cannot be opened, or the cache's folder cannot be used.
    """
    told = partial(observer.store_called, "redis-cache")
    truth = TimedBackend(_opened(settings, told), partial(observer.store_called, kind_of(settings.store)))
    try:
        store = AdapterStore(truth, time.time)
        disk = _disk(settings, log)
        reader = store if disk is None else AdapterStore(CachedBackend(truth, disk), time.time)
        yield Stores(store, reader, disk)
    finally:
        await truth.close()


def kind_of(url: str) -> str:
    """The kind of store that a URL names: file, redis, s3, gs, az, or redis and one of those; never its address."""
    scheme = url.partition("://")[0].replace("rediss", "redis")
    return scheme.removesuffix("+sentinel").removesuffix("+cluster")


def _opened(settings: Settings, told: Told) -> Backend:
    if settings.store.startswith("memory:"):
        raise StartError(
            "memory:// is a store inside one process: nothing can be published to it before it starts, and nothing "
            "outlives it; publish with `espalier publish RUN --store file:///folder`, then serve that store"
        )
    try:
        return open_backend(settings.store, timeout_s=settings.store_timeout_s, told=told)
    except StoreError as error:
        raise StartError(f"the store {settings.shown_store} cannot be opened: {error}") from error


def _disk(settings: Settings, log: FilteringBoundLogger) -> DiskCache | None:
    if settings.cache_dir is None:
        return None
    try:
        return DiskCache(
            settings.cache_dir.absolute(),
            settings.cache_bytes,
            on_fault=lambda fault: log.warning("disk_cache", reason=fault),
        )
    except StoreError as error:
        raise StartError(f"the disk cache cannot be used: {error}; choose another folder as cache_dir") from error
