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
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from stamina.instrumentation import RetryDetails, get_on_retry_hooks, set_on_retry_hooks
from structlog.typing import FilteringBoundLogger
from uvicorn.loops.auto import auto_loop_factory

from adapters_store.errors import StoreError, StoreUnavailable
from adapters_store.store import AdapterStore
from service.accepting import SharedListener
from service.app import Apps, create_apps
from service.clock import LoopClock
from service.cores import listed, shares
from service.crowd import Crowd
from service.draining import SIGNALS, Draining
from service.errors import StartError
from service.feedback.room import open_feedback
from service.http import ClosingServer, bounded_http
from service.listening import Ports, admin_url, bound_ports, main_url
from service.log_level import LogLevel
from service.logs import Forward, open_log
from service.metrics import Metrics
from service.peers import NoPeers, Peers
from service.reloading import LevelSetting, Reloading, on_hangup, open_files
from service.replica import Replica
from service.settings import Settings
from service.stores import Stores, open_stores
from service.tls import Tls
from service.tracing import open_tracing

BACKLOG = 2048
_MARGIN_S = 2
_SWITCH_INTERVAL_S = 0.0001


@dataclass(frozen=True, slots=True)
class Started:
    """What a server says when it listens.

    Args:
        url: where scores are asked for.
        backbone: revision of the bundle that it scores with.
        domains: domains that the store has a record of; None when the store is away and the disk cache serves.
        scoring_open: whether anyone on this machine may score (no token is configured).
        workers: that share the sockets.
        admin_url: where everything else is, if that is another port.
    """

    url: str
    backbone: str
    domains: int | None
    scoring_open: bool
    workers: int = 1
    admin_url: str | None = None


class QuietServer(ClosingServer):
    """Leaves signals to whoever runs it, and tells when it listens; ended by its flag `should_exit`.

    Args:
        config: of uvicorn.
        on_started: called once it listens.
        crowd: of the processes that take connections from the same socket, if there are several.
        port: that it answers on, among those of the crowd.
    """

    def __init__(
        self, config: uvicorn.Config, on_started: Callable[[], None], crowd: Crowd | None = None, port: int = 0
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._crowd = crowd
        self._port = port

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None: uvicorn would die of the signal, and one process may have several servers."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets=sockets if self._crowd is None else [])
        if not self.started:
            return
        if self._crowd is not None:
            self.servers = [self._sharing(listener, self._crowd) for listener in sockets or []]  # type: ignore[misc]
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, and wait for answers."""
        if self._crowd is not None:
            self._crowd.leave(self._port)
        await super().shutdown(sockets)

    def _sharing(self, listener: socket.socket, crowd: Crowd) -> SharedListener:
        config, connections = self.config, self.server_state.connections

        def tell(beginning: int) -> None:
            crowd.tell(self._port, len(connections) + beginning)

        def is_ahead() -> bool:
            return crowd.is_ahead(self._port)

        def make() -> asyncio.Protocol:
            protocol: asyncio.Protocol = config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return protocol

        tell(0)  # the others learn that there is one more
        return SharedListener(listener, make, tell=tell, is_ahead=is_ahead, context=config.ssl, backlog=config.backlog)


def run(settings: Settings, *, config: Path | None, announce: Callable[[Started], None]) -> None:
    """Serve alone until a signal comes, on an event loop of its own (uvloop where there is one).

    Args:
        settings: of this process.
        config: the file that they stood in, to read again on SIGHUP.
        announce: told once the server listens.

    Raises:
        SettingsInvalid: an address is taken or needs tokens, a file that the settings name has a fault, or their cores
            cannot be had.
        StartError: the store cannot be opened or read, or has no backbone that this replica can score with.
        adapters_store.errors.StoreError: the store went away in between.
    """
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        runner.run(_serve(settings, config, announce))


async def _serve(settings: Settings, config: Path | None, announce: Callable[[Started], None]) -> None:
    level = LogLevel(settings.log_level)
    log = open_log(level)
    # said before anything is loaded
    shares(settings.engine_cpus, workers=settings.workers, threads=settings.engine_threads)
    files = open_files(settings, LevelSetting(level, settings, config, log), log)
    with bound_ports(settings) as ports:
        metrics = Metrics(log, settings.metric_domains)
        await serve_on(ports, settings, files, log=log, metrics=metrics, peers=NoPeers(), announce=announce)


async def serve_on(
    ports: Ports,
    settings: Settings,
    files: Reloading,
    *,
    log: FilteringBoundLogger,
    metrics: Metrics,
    peers: Peers,
    announce: Callable[[Started], None],
    forced_by: Collection[signal.Signals] = SIGNALS,
) -> None:
    """Serve on bound sockets, which others may share, until a signal comes; they are closed then.

    Args:
        ports: bound and not blocking.
        settings: of this process.
        files: tokens and certificates, read again on SIGHUP.
        log: its log.
        metrics: what its /metrics shows.
        peers: the workers that share the sockets.
        announce: told once this process listens.
        forced_by: the signals that, as the second one, end the waiting for what is in flight.

    Raises:
        StartError: the store cannot be opened or read, or has no backbone that this replica can score with.
        adapters_store.errors.StoreError: the store went away in between.
    """
    draining = Draining(settings.drain_delay_s, settings.drain_s, log=log, forced_by=forced_by)
    hangup = on_hangup(files.start, lambda: draining.signalled(signal.SIGTERM))
    with draining.on_signals(), hangup, forwarded_logs(log):
        spans = open_tracing(settings.otlp_endpoint, share=settings.trace_share, replica=settings.replica_id, log=log)
        async with (
            spans as tracing,
            open_feedback(settings, metrics.registry, log) as feedback,
            open_stores(settings, log, metrics) as stores,
            open_replica(stores, settings, metrics, peers, log) as replica,
        ):
            started = Started(
                main_url(ports, settings),
                replica.backbone_revision,
                await _recorded(stores.store),
                not files.tokens.configured,
                admin_url=admin_url(ports, settings),
            )
            apps = create_apps(
                replica,
                settings=settings,
                tokens=files.tokens,
                metrics=metrics,
                log=log,
                serving=lambda: draining.serving,
                feedback=feedback,
                tracing=tracing,
            )
            # what lives as long as the process is not walked by each full collection, which stops every request
            gc.collect()
            gc.freeze()
            # what folds in the background gives the interpreter up as soon as a request waits for it, not after 5 ms
            sys.setswitchinterval(_SWITCH_INTERVAL_S)
            async with files.followed(LoopClock(), settings.tokens_reload_s):
                await _listen(ports, apps, settings, files.tls, draining, lambda: announce(started))


async def _listen(
    ports: Ports,
    apps: Apps,
    settings: Settings,
    tls: Tls | None,
    draining: Draining,
    on_listening: Callable[[], None],
) -> None:
    """Answer on every port, until all of them are drained."""
    served = (apps.main,) if apps.admin is None else (apps.main, apps.admin)
    left = len(served)

    def one_listens() -> None:
        nonlocal left
        left -= 1
        if not left:
            draining.listening()
            on_listening()

    servers = [
        QuietServer(uvicorn_config(app, settings, tls), one_listens, ports.crowd, port)
        for port, app in enumerate(served)
    ]
    closing = asyncio.create_task(draining.close(servers))
    try:
        await asyncio.gather(
            *(server.serve(sockets=[listener]) for server, listener in zip(servers, ports.sockets, strict=True))
        )
    finally:
        closing.cancel()


@asynccontextmanager
async def open_replica(
    stores: Stores, settings: Settings, metrics: Metrics, peers: Peers, log: FilteringBoundLogger
) -> AsyncIterator[Replica]:
    """A started replica over the stores; stopped at the end.

    Raises:
        StartError: the store cannot be read, or has no backbone that this replica can score with.
        EngineFailed: the engine's thread cannot be bound to its core.
    """
    core = settings.replica
    try:
        replica = await Replica.open(
            stores.store,
            reader=stores.reader,
            disk=stores.disk,
            config=core,
            observer=metrics,
            clock=LoopClock(),
            peers=peers,
            told=lambda serving, reason: log.warning("engine_fell_back", serving=serving, reason=reason),
        )
    except StoreError as error:
        raise StartError(f"the store {settings.shown_store} cannot be read: {error}") from error
    if core.engine_cpus:
        log.info("engine_bound", cores=listed(core.engine_cpus), threads=core.engine_threads)
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


def uvicorn_config(app: FastAPI, settings: Settings, tls: Tls | None = None) -> uvicorn.Config:
    """How uvicorn runs the app: one process, httptools with bounded headers, no access log (it would name domains)."""
    context = None if tls is None else tls.context
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
        # cut off by then; this bound is for a server that nobody drains
        timeout_graceful_shutdown=settings.drain_s + _MARGIN_S,
        ssl_context_factory=None if context is None else lambda config, default: context,
    )


@contextmanager
def forwarded_logs(log: FilteringBoundLogger) -> Iterator[None]:
    """Hand what libraries log to our log, while the server runs."""
    forward = Forward(log)
    # those are counted when they are cut off
    forward.addFilter(lambda record: not isinstance((record.exc_info or (None, None))[1], asyncio.CancelledError))
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
