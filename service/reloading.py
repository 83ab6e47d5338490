"""What a serving process reads from files and reads again on SIGHUP: tokens, certificates, the log's level."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from service.auth import TokenBook
from service.clock import Clock
from service.log_level import LogLevel
from service.refusals import SettingsInvalid
from service.settings import Settings, load_settings
from service.tls import Tls, open_tls
from service.token_file import TokenFile


class LevelSetting:
    """The setting `log_level`, which is read again from where it stood.

    Args:
        level: of the log; changed by `reload`.
        settings: as they were at the start.
        config: the settings file, if there is one.
        log: told of changes and faults.
    """

    def __init__(self, level: LogLevel, settings: Settings, config: Path | None, log: FilteringBoundLogger) -> None:
        self.level = level
        # what the command line may have said, so that the file is not found at fault for what it leaves to it
        self._given = {"store": settings.store, "host": settings.host, "port": settings.port}
        self._config = config
        self._log = log

    def reload(self) -> bool:
        """Read the settings file again and take the level from it; a variable goes before it, as at the start.

        Returns:
            Whether what is written there is in force. A file with a fault leaves the old level, and is logged.
        """
        try:
            level = load_settings(self._given, self._config).log_level
        except SettingsInvalid as error:
            self._log.error("log_level_kept", level=self.level.level, reason=str(error))
            return False
        if level != self.level.level:
            before = self.level.level
            # whatever the two levels are, the change itself is told
            self.level.change("info")
            self._log.info("log_level_changed", before=before, level=level)
        self.level.change(level)
        return True


class Reloading:
    """The files of one serving process.

    Args:
        tokens: accepted by it.
        tls: of its ports.
        level: of its log.
        log: told when all have been read again.
    """

    def __init__(
        self,
        *,
        tokens: TokenFile | TokenBook,
        tls: Tls | None,
        level: LevelSetting,
        log: FilteringBoundLogger,
    ) -> None:
        self.tokens = tokens
        self.tls = tls
        self._level = level
        self._log = log
        self._one_at_a_time = asyncio.Lock()
        self._running: set[asyncio.Task[None]] = set()

    async def reload(self) -> None:
        """Read every file again. Each stands for itself: one with a fault keeps what it was, and holds up no other."""
        async with self._one_at_a_time:
            level = self._level.reload()
            tokens = await self.tokens.reload() if isinstance(self.tokens, TokenFile) else True
            certificates = self.tls.reload() if self.tls is not None else True
        self._log.info("reloaded", log_level=level, tokens=tokens, certificates=certificates)

    @asynccontextmanager
    async def followed(self, clock: Clock, every_s: float) -> AsyncIterator[None]:
        """Notice by itself, while inside, that the tokens file or a certificate has changed."""
        files = [file for file in (self.tokens, self.tls) if isinstance(file, TokenFile | Tls)]
        following = [asyncio.create_task(file.follow(clock, every_s)) for file in files]
        try:
            yield
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)

    def start(self) -> None:
        """Reload in the background."""
        task = asyncio.get_running_loop().create_task(self.reload())
        self._running.add(task)
        task.add_done_callback(self._running.discard)


def open_files(settings: Settings, level: LevelSetting, log: FilteringBoundLogger) -> Reloading:
    """Read the files that the settings name.

    Raises:
        SettingsInvalid: one of them is missing or has a fault, or tokens are needed and there are none.
    """
    return Reloading(tokens=tokens_of(settings, log), tls=open_tls(settings, log), level=level, log=log)


def tokens_of(settings: Settings, log: FilteringBoundLogger) -> TokenFile | TokenBook:
    """The tokens accepted.

    Raises:
        SettingsInvalid: the file cannot be read or names nobody, or there is none although strangers can reach the
            address.
    """
    if settings.tokens is not None:
        return TokenFile(settings.tokens, log)
    if not settings.loopback:
        raise SettingsInvalid(
            f"the service cannot start: {settings.host} can be reached from other machines and no token is configured: "
            "make one with `espalier token new --name me --scope score --out tokens.yaml`, then pass "
            "--tokens tokens.yaml, or listen on 127.0.0.1"
        )
    return TokenBook([])


@contextmanager
def on_hangup(reload: Callable[[], None], leave: Callable[[], None]) -> Iterator[None]:
    """Take SIGHUP for the running event loop.

    A terminal that closes sends the same signal. Who was started from one is then left by its user, and ends, unless
    `nohup` said otherwise.

    Args:
        reload: called for a signal that someone sent.
        leave: called when the terminal is gone.
    """
    tied = has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, lambda: leave() if tied and not has_terminal() else reload())
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def has_terminal() -> bool:
    """Whether this process has a controlling terminal now."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
