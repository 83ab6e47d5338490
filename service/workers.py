"""The supervisor of several workers: binds the sockets that all accept from, and keeps as many of them alive.

It scores nothing itself. The first worker starts alone, so that a start that fails says so once, and so that the others
find in the disk cache what it read from the store.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from service.channel import Failed, Message, Ping, Pong, Ready
from service.cores import listed, shares
from service.errors import StartError
from service.hub import Hub
from service.launch import Launched, launch
from service.listening import Ports, admin_url, bound_ports, main_url
from service.log_level import LogLevel
from service.logs import open_log
from service.reloading import LevelSetting, on_hangup, open_files
from service.server import Started
from service.settings import Settings
from service.totals import Totals

STARTS = 3  # of a worker that dies without a reason, before the whole start is given up
MISSED_PINGS = 6  # in a row, and a worker is taken for hung
_BACK_OFF_S = 0.1
_BACK_OFF_AT_MOST_S = 10.0
_STEADY_S = 30.0  # a worker that took requests for so long has a clean record again
_MARGIN_S = 5.0  # beyond its own bounds, before a worker is killed


def run(settings: Settings, *, config: Path | None, announce: Callable[[Started], None]) -> None:
    """Serve with `settings.workers` processes until a signal comes.

    Args:
        settings: of all workers.
        config: the file that they stood in, to read again on SIGHUP.
        announce: told once, when every worker listens.

    Raises:
        SettingsInvalid: an address is taken or needs tokens, a file that the settings name has a fault, or their cores
            cannot be had.
        StartError: a worker cannot start; the message is its own.
    """
    asyncio.run(_supervise(settings, config, announce))


async def _supervise(settings: Settings, config: Path | None, announce: Callable[[Started], None]) -> None:
    level = LogLevel(settings.log_level)
    log = open_log(level)
    setting = LevelSetting(level, settings, config, log)
    # nothing is made of them here; each worker would refuse them, one after the other
    open_files(settings, setting, log)
    with bound_ports(settings) as ports:
        await Supervisor(settings, ports, log, announce, config=config, level=setting).run()


@dataclass(frozen=True, slots=True)
class _End:
    """How a worker ended.

    Args:
        reason: in words, for the log.
        told: the reason is the worker's own, so another attempt at once would fail for the same.
        steady: it had taken requests for long.
        pid: of it.
    """

    reason: str
    told: bool = False
    steady: bool = False
    pid: int | None = None


class Supervisor:
    """Starts workers, replaces those that die, and ends them all.

    Args:
        settings: of all workers.
        ports: bound; every worker inherits them. Closed when the end begins.
        log: told of workers that die.
        announce: told once, when every worker listens.
        config: the file that the settings stood in, for workers to read again on SIGHUP.
        level: of the log; read again on SIGHUP.
        ping_s: between two questions whether a worker's event loop turns, seconds.

    Raises:
        SettingsInvalid: the cores of the settings cannot be shared out.
    """

    def __init__(
        self,
        settings: Settings,
        ports: Ports,
        log: FilteringBoundLogger,
        announce: Callable[[Started], None],
        *,
        config: Path | None = None,
        level: LevelSetting | None = None,
        ping_s: float = 5.0,
    ) -> None:
        self._settings = settings
        # once: a worker that is replaced later takes the cores of the one before it
        self._cores = shares(settings.engine_cpus, workers=settings.workers, threads=settings.engine_threads)
        self._ports = ports
        self._urls = main_url(ports, settings), admin_url(ports, settings)
        self._config = config
        self._level = level
        self._log = log
        self._announce = announce
        self._ping_s = ping_s
        self._announced = False
        self._group = asyncio.TaskGroup()
        self._places = 0
        self._workers: dict[int, Launched] = {}
        self._hub = Hub(
            lambda worker, message: self._workers[worker].channel.send(message), Totals(settings.metric_domains)
        )
        self._stopping = asyncio.Event()
        self._failure: str | None = None

    async def run(self) -> None:
        """Keep the workers until a signal comes or the start has failed.

        Raises:
            StartError: a worker cannot start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        try:
            with on_hangup(self._reload, self._stop):
                async with self._group:
                    self._fill(1)
        finally:
            # nobody is left here, unless a fault of ours ended the group
            self._signal(signal.SIGKILL)
        if self._failure is not None:
            raise StartError(self._failure)

    def _stop(self) -> None:
        """Begin to end; called again, the workers give up waiting for what is in flight."""
        if self._stopping.is_set():
            self._signal(signal.SIGINT)
            return
        self._stopping.set()
        self._ports.close()
        self._signal(signal.SIGTERM)
        bound_s = self._settings.drain_delay_s + self._settings.drain_s + _MARGIN_S
        asyncio.get_running_loop().call_later(bound_s, self._signal, signal.SIGKILL)
        # told last: where a terminal is gone, writing fails
        self._log.info("draining", workers=len(self._workers))

    def _reload(self) -> None:
        """Have every worker read its files again, those that come later too."""
        if self._level is not None and self._level.reload():
            self._settings = self._settings.model_copy(update={"log_level": self._level.level.level})
        for worker in self._workers.values():
            worker.reload()

    def _fail(self, reason: str) -> None:
        self._failure = self._failure or reason
        self._stop()

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._workers.values():
            worker.signal(number)

    def _fill(self, places: int) -> None:
        for number in range(self._places + 1, places + 1):
            self._group.create_task(self._keep(number))
        self._places = max(places, self._places)

    async def _keep(self, number: int) -> None:
        """Have a worker in this place until the end."""
        deaths = 0
        while True:
            end = await self._serve(number)
            if self._stopping.is_set():
                return
            deaths = 1 if end.steady else deaths + 1
            if not self._announced and (end.told or deaths == STARTS):
                self._fail(end.reason if end.told else f"worker {number} cannot start: {end.reason}, {deaths} times")
                return
            delay_s = min(_BACK_OFF_S * 2 ** min(deaths - 1, 16), _BACK_OFF_AT_MOST_S)
            self._log.error("worker_ended", worker=number, pid=end.pid, reason=end.reason, restart_in_s=delay_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._stopping.wait()
            if self._stopping.is_set():
                return

    async def _serve(self, number: int) -> _End:
        """One worker's life."""
        own = self._settings.model_copy(update={"engine_cpus": listed(self._cores[number - 1])})
        try:
            worker = await launch(number, own, self._ports, self._config)
        except OSError as error:
            return _End(f"no process for it: {error.strerror}")
        self._workers[number] = worker
        if self._stopping.is_set():
            worker.signal(signal.SIGTERM)
        watching = asyncio.create_task(self._watch(worker))
        try:
            async for message in worker.channel.messages():
                self._heard(worker, message)
        finally:
            watching.cancel()
            self._hub.gone(number)
        await worker.ended(self._settings.drain_s + _MARGIN_S)
        del self._workers[number]
        if self._ports.crowd is not None:
            self._ports.crowd.forget(number - 1)
        steady = worker.ready is not None and asyncio.get_running_loop().time() - worker.ready_at > _STEADY_S
        told = worker.failed
        return _End(worker.ending if told is None else told.reason, told is not None, steady, worker.pid)

    def _heard(self, worker: Launched, message: Message) -> None:
        match message:
            case Ready():
                worker.took_requests(message, asyncio.get_running_loop().time())
                self._log.info("worker_ready", worker=worker.number, pid=worker.pid)
                self._grow()
            case Failed():
                worker.failed = message
            case Pong():
                worker.missed_pings = 0
            case _:
                self._hub.received(worker.number, message)

    def _grow(self) -> None:
        """One more worker takes requests: start the rest, or say that all do."""
        if self._stopping.is_set():
            return
        self._fill(self._settings.workers)
        said = [worker.ready for worker in self._workers.values() if worker.ready is not None]
        if self._announced or len(said) < self._settings.workers:
            return
        self._announced = True
        first = said[0]
        main, admin = self._urls
        self._announce(Started(main, first.backbone, first.domains, first.scoring_open, len(said), admin))

    async def _watch(self, worker: Launched) -> None:
        """Kill a worker whose event loop no longer turns: it holds up every publish, and may hold connections."""
        while True:
            # counted in answers, not in time: after a pause of the whole machine nobody is to blame
            await asyncio.sleep(self._ping_s)
            if worker.channel.stuck or worker.missed_pings == MISSED_PINGS:
                self._log.error("worker_hung", worker=worker.number, pid=worker.pid)
                worker.signal(signal.SIGKILL)
                return
            if worker.ready is not None:
                worker.missed_pings += 1
                worker.channel.send(Ping())
