"""One serving process: opens the replica, listens, drains on Ctrl-C or SIGTERM, and ends with 0."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import FrameType

import uvicorn
from fastapi import FastAPI
from stamina.instrumentation import RetryDetails, get_on_retry_hooks, set_on_retry_hooks
from structlog.typing import FilteringBoundLogger
from uvicorn.loops.auto import auto_loop_factory

from adapters_store.errors import StoreError, StoreUnavailable
from adapters_store.store import AdapterStore
from service.app import create_app
from service.auth import TokenBook, read_tokens
from service.clock import LoopClock
from service.errors import StartError
from service.http import bounded_http
from service.listening import bound_socket, url_of
from service.logs import Forward
from service.metrics import Metrics
from service.peers import NoPeers, Peers
from service.refusals import SettingsInvalid
from service.replica import Replica
from service.settings import Settings
from service.stores import Stores, open_stores

BACKLOG = 2048
_SWITCH_INTERVAL_S = 0.0001
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Started:
    """What a server says when it listens.

    Args:
        url: where.
        backbone: revision of the bundle that it scores with.
        domains: domains that the store has a record of; None when the store is away and the disk cache serves.
        scoring_open: whether anyone on this machine may score (no token is configured).
        workers: that share the socket.
    """

    url: str
    backbone: str
    domains: int | None
    scoring_open: bool
    workers: int = 1


class QuietServer(uvicorn.Server):
    """Stops accepting on the first signal, finishes what is in flight, and returns; uvicorn would die of the signal.

    Args:
        config: of uvicorn.
        on_started: called once it listens.
        forced_by: the signals that, as the second one, end the waiting for what is in flight.
    """

    def __init__(
        self, config: uvicorn.Config, on_started: Callable[[], None], forced_by: Collection[int] = SIGNALS
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._forced_by = forced_by

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain on the first signal, give up waiting on the second."""
        self.force_exit = self.force_exit or (self.should_exit and sig in self._forced_by)
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets=sockets)
        if self.started:
            self._on_started()


async def serve(settings: Settings, *, log: FilteringBoundLogger, announce: Callable[[Started], None]) -> None:
    """Serve alone until a signal comes.

    Args:
        settings: of this process.
        log: its log.
        announce: told once the server listens.

    Raises:
        SettingsInvalid: the address is taken, needs tokens, or the tokens file cannot be read.
        StartError: the store cannot be opened or read, or has no backbone that this replica can score with.
        adapters_store.errors.StoreError: the store went away in between.
    """
    tokens = tokens_of(settings)
    with bound_socket(settings.host, settings.port) as listener:
        await serve_on(listener, settings, tokens, log=log, metrics=Metrics(log), peers=NoPeers(), announce=announce)


async def serve_on(
    listener: socket.socket,
    settings: Settings,
    tokens: TokenBook,
    *,
    log: FilteringBoundLogger,
    metrics: Metrics,
    peers: Peers,
    announce: Callable[[Started], None],
    forced_by: Collection[int] = SIGNALS,
) -> None:
    """Serve on a bound socket, which others may share, until a signal comes; it is closed then.

    Args:
        listener: bound and not blocking.
        settings: of this process.
        tokens: accepted by it.
        log: its log.
        metrics: what its /metrics shows.
        peers: the workers that share the socket.
        announce: told once this process listens.
        forced_by: the signals that, as the second one, end the waiting for what is in flight.

    Raises:
        StartError: the store cannot be opened or read, or has no backbone that this replica can score with.
        adapters_store.errors.StoreError: the store went away in between.
    """
    with forwarded_logs(log):
        async with open_stores(settings, log) as stores, open_replica(stores, settings, metrics, peers) as replica:
            domains = await _recorded(stores.store)
            started = Started(url_of(listener, settings.host), replica.backbone_revision, domains, not len(tokens))

            def serving() -> bool:
                return not server.should_exit

            app = create_app(replica, settings=settings, tokens=tokens, metrics=metrics, log=log, serving=serving)
            server = QuietServer(uvicorn_config(app, settings), lambda: announce(started), forced_by)
            # what lives as long as the process is not walked by each full collection, which stops every request
            gc.collect()
            gc.freeze()
            # what folds in the background gives the interpreter up as soon as a request waits for it, not after 5 ms
            sys.setswitchinterval(_SWITCH_INTERVAL_S)
            await server.serve(sockets=[listener])


def run(settings: Settings, *, log: FilteringBoundLogger, announce: Callable[[Started], None]) -> None:
    """Serve on an event loop of its own (uvloop where there is one); arguments and errors as `serve`."""
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        runner.run(serve(settings, log=log, announce=announce))


def tokens_of(settings: Settings) -> TokenBook:
    """The tokens accepted.

    Raises:
        SettingsInvalid: the file cannot be read, or there is none although strangers can reach the address.
    """
    tokens = TokenBook([]) if settings.tokens is None else read_tokens(settings.tokens)
    if settings.tokens is not None and not len(tokens):
        # read as "none configured", an emptied file would open scoring instead of closing it
        raise SettingsInvalid(
            f"the tokens file {settings.tokens} holds no token: add one with `espalier token new`, "
            "or start without --tokens"
        )
    if not len(tokens) and not settings.loopback:
        raise SettingsInvalid(
            f"the service cannot start: {settings.host} can be reached from other machines and no token is configured: "
            "make one with `espalier token new --name me --scope score --out tokens.yaml`, then pass "
            "--tokens tokens.yaml, or listen on 127.0.0.1"
        )
    return tokens


@asynccontextmanager
async def open_replica(stores: Stores, settings: Settings, metrics: Metrics, peers: Peers) -> AsyncIterator[Replica]:
    """A started replica over the stores; stopped at the end.

    Raises:
        StartError: the store cannot be read, or has no backbone that this replica can score with.
    """
    try:
        replica = await Replica.open(
            stores.store,
            reader=stores.reader,
            config=settings.replica,
            observer=metrics,
            clock=LoopClock(),
            peers=peers,
        )
    except StoreError as error:
        raise StartError(f"the store {settings.shown_store} cannot be read: {error}") from error
    try:
        await replica.start()
        yield replica
    finally:
        await replica.stop()


async def _recorded(store: AdapterStore) -> int | None:
    try:
        return sum(key.startswith("domain/") for key in await store.versions())
    except StoreUnavailable:
        return None


def uvicorn_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn runs the app: one process, httptools with bounded headers, no access log (it would name domains)."""
    return uvicorn.Config(
        app,
        http=bounded_http(settings.header_bytes, settings.header_read_s),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.drain_s,
    )


@contextmanager
def forwarded_logs(log: FilteringBoundLogger) -> Iterator[None]:
    """Hand what libraries log to our log, while the server runs."""
    forward = Forward(log)
    loggers = [logging.getLogger(name) for name in ("uvicorn", "asyncio")]
    for logger in loggers:
        logger.addHandler(forward)
    hooks = get_on_retry_hooks()

    # stamina would print its warnings to stdout; that a store fails for good is told by whoever called it
    def retried(details: RetryDetails) -> None:
        log.debug("retried", attempt=details.retry_num, wait_s=details.wait_for, reason=str(details.caused_by))

    set_on_retry_hooks([retried])
    try:
        yield
    finally:
        set_on_retry_hooks(hooks)
        for logger in loggers:
            logger.removeHandler(forward)
