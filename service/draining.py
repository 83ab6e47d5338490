"""The orderly end of a serving process: first it is not ready, then its ports close, then the last answers leave."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

from structlog.typing import FilteringBoundLogger

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_CANCEL_AGAIN_S = 0.5


class Closing(Protocol):
    """A server as far as its end is concerned; uvicorn looks at both flags."""

    should_exit: bool
    force_exit: bool

    def say_close(self) -> None:
        """Tell each connection with its next answer that it is the last one."""

    def cut_off(self) -> int:
        """Drop what is still open; how many requests that leaves without an answer."""


class Draining:
    """Waits for a signal, and then ends servers step by step.

    Args:
        delay_s: between saying not ready and closing the ports, seconds: as long as whoever routes requests here needs
            to notice.
        drain_s: between closing the ports and cutting off what has no answer yet, seconds.
        log: told of each step.
        forced_by: the signals that, as the second one, end all waiting.
    """

    def __init__(
        self,
        delay_s: float,
        drain_s: float,
        *,
        log: FilteringBoundLogger,
        forced_by: Collection[signal.Signals] = SIGNALS,
    ) -> None:
        self._delay_s = delay_s
        self._drain_s = drain_s
        self._log = log
        self._forced_by = forced_by
        self._begun = asyncio.Event()
        self._forced = asyncio.Event()
        self._listening = False
        self._starting: asyncio.Task[object] | None = None

    @property
    def serving(self) -> bool:
        """Whether requests should come here: every port listens, and no signal has come."""
        return self._listening and not self._begun.is_set()

    def listening(self) -> None:
        """Every port listens from now on."""
        self._listening = True

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Have the calling task's end begin with a signal; one that comes before it listens cancels it quietly.

        Without that, a stop during the start would be ignored where this is the first process of a container.
        """
        loop, self._starting = asyncio.get_running_loop(), asyncio.current_task()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.signalled, number)
        try:
            yield
        except asyncio.CancelledError:
            if self._listening or not self._begun.is_set() or self._starting is None:
                raise
            while self._starting.uncancel():
                pass
        finally:
            self._starting = None
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def signalled(self, number: signal.Signals) -> None:
        """Begin to end; a second signal ends all waiting."""
        # told last: where a terminal is gone, writing fails
        if not self._begun.is_set():
            self._begun.set()
            self._end_start()
            self._log.info("draining", signal=number.name, delay_s=self._delay_s, started=self._listening)
        elif number in self._forced_by and not self._forced.is_set():
            self._forced.set()
            self._log.warning("draining_forced", signal=number.name)

    def _end_start(self) -> None:
        """Cancel a start, again and again until it ends: a client library that connects may swallow a cancellation."""
        if not self._listening and self._starting is not None:
            self._starting.cancel()
            asyncio.get_running_loop().call_later(_CANCEL_AGAIN_S, self._end_start)

    async def close(self, servers: Sequence[Closing]) -> None:
        """Wait for the first signal, then close the servers; returns when what was still open has been cut off."""
        await self._begun.wait()
        for server in servers:
            server.say_close()
        await self._forced_within(self._delay_s)
        for server in servers:
            server.should_exit = True
        await self._forced_within(self._drain_s)
        cut_off = sum(server.cut_off() for server in servers)
        for server in servers:
            server.force_exit = True
        self._log.warning("draining_cut_off", requests=cut_off)

    async def _forced_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._forced.wait()
