"""Start one worker as a process of its own, and hold what its supervisor has of it."""

from __future__ import annotations

import asyncio
import os
import signal
import site
import socket
import sys
from contextlib import suppress
from pathlib import Path

from service.channel import Channel, Failed, Ready
from service.handover import Handover
from service.listening import Ports
from service.settings import Settings

_ROOT = str(Path(__file__).resolve().parents[1])


class Launched:
    """One worker, from its start to its end.

    Args:
        number: of its place, from 1.
        child: the operating system's side of it.
        channel: to it.
    """

    def __init__(self, number: int, child: asyncio.subprocess.Process, channel: Channel) -> None:
        self.number = number
        self.channel = channel
        self.ready: Ready | None = None
        self.failed: Failed | None = None
        self.ready_at = 0.0
        self.missed_pings = 0
        self._child = child
        self._reload_due = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def ending(self) -> str:
        """How it ended, for people."""
        code = self._child.returncode
        if code is None:
            return "still running"
        return f"status {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"

    def took_requests(self, said: Ready, at: float) -> None:
        """It listens; what was asked of it before is passed on now.

        Args:
            said: of itself.
            at: the event loop's time.
        """
        self.ready, self.ready_at = said, at
        if self._reload_due:
            self.signal(signal.SIGHUP)

    def reload(self) -> None:
        """Have it read its files again, which it does after its start if that goes on: before, the signal kills."""
        if self.ready is None:
            self._reload_due = True
        else:
            self.signal(signal.SIGHUP)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; harmless after its end."""
        with suppress(ProcessLookupError):
            self._child.send_signal(number)

    async def ended(self, within_s: float) -> None:
        """Wait for its end, and kill it when that takes longer; its channel is closed then."""
        try:
            async with asyncio.timeout(within_s):
                await self._child.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self._child.wait()
        await self.channel.close()


async def launch(number: int, settings: Settings, ports: Ports, config: Path | None = None) -> Launched:
    """Start a worker.

    It is a fresh interpreter, since what has threads and an event loop cannot be forked safely; a process group of its
    own, so that Ctrl-C reaches the supervisor alone, which passes it on once.

    Args:
        number: of its place, from 1.
        settings: of all workers; this one gets its own replica id.
        ports: inherited by it.
        config: the file that the settings stood in, to read again on SIGHUP.

    Raises:
        OSError: the operating system has no room for another process.
    """
    own = settings.model_copy(update={"replica_id": f"{settings.replica_id[:120]}-{number}"})
    ours, theirs = socket.socketpair()
    assert ports.crowd is not None  # there are several
    handed = (theirs.fileno(), ports.crowd.descriptor, *(each.fileno() for each in ports.sockets))
    with theirs:
        try:
            child = await asyncio.create_subprocess_exec(
                # -P: a folder named `service` where the command was called is not ours
                *(sys.executable, "-P", "-m", "service.worker"),
                *map(str, (number, *handed)),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=handed,
                process_group=0,
                env=_environment(),
            )
        except OSError:
            ours.close()
            raise
    assert child.stdin is not None
    child.stdin.write(Handover(settings=own, config=config).model_dump_json().encode())
    child.stdin.close()
    return Launched(number, child, await Channel.over(ours))


def _environment() -> dict[str, str]:
    """Ours; where this package is not installed but on our path by other means, the worker is told of it."""
    environment = dict(os.environ)
    if _ROOT not in (*site.getsitepackages(), site.getusersitepackages()):
        paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
        environment["PYTHONPATH"] = os.pathsep.join([*paths, _ROOT])
    return environment
