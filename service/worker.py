"""One worker of several, as `service.workers` starts it, by `service.worker NUMBER CHANNEL_FD CROWD_FD PORT_FD...`.

Its settings come over stdin, because they may hold a password, which neither the command line nor the environment may.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

from uvicorn.loops.auto import auto_loop_factory

from adapters_store.errors import StoreError
from service.channel import Channel, Failed, Ready
from service.clock import LoopClock
from service.crowd import Crowd
from service.errors import ServiceError
from service.handover import Handover
from service.listening import Ports
from service.log_level import LogLevel
from service.logs import open_log
from service.metrics import Metrics
from service.reloading import LevelSetting, open_files
from service.server import Started, serve_on
from service.socket_peers import PeersOverSocket
from service.socket_together import TogetherOverSocket


async def work(handed: Handover, number: int, ports: Ports, connected: socket.socket) -> int:
    """Serve until the supervisor says stop or is gone.

    Args:
        handed: its settings.
        number: of this worker, from 1.
        ports: the sockets that all workers accept from.
        connected: to the supervisor.

    Returns:
        The exit status: 1 when it could not start, for a reason that the supervisor was told.
    """
    settings, level = handed.settings, LogLevel(handed.settings.log_level)
    log = open_log(level).bind(worker=number)
    channel = await Channel.over(connected)
    together = TogetherOverSocket(channel, LoopClock())
    # as if it had been stopped from outside: before the server listens it ends at once, afterwards it drains
    peers = PeersOverSocket(
        channel, LoopClock(), on_lost=lambda: signal.raise_signal(signal.SIGTERM), others=together.heard
    )
    peers.hear()

    def ready(started: Started) -> None:
        channel.send(Ready(started.backbone, started.domains, started.scoring_open))

    try:
        metrics = Metrics(log, together=together)
        metrics.works_as(number, settings.workers, os.getpid())
        together.start(metrics)
        await serve_on(
            ports,
            settings,
            open_files(settings, LevelSetting(level, settings, handed.config, log), log),
            log=log,
            metrics=metrics,
            peers=peers,
            announce=ready,
            # a service's stop may reach every process of it, besides being passed on by the supervisor
            forced_by=(signal.SIGINT,),
        )
    except (ServiceError, StoreError) as error:
        channel.send(Failed.of(error))
        return 1
    finally:
        together.stop()
        await peers.stop_hearing()
        await channel.close()
    return 0


def main() -> None:
    """Take over what the supervisor hands down, and serve."""
    number, channel_fd, crowd_fd, *listening = (int(each) for each in sys.argv[1:])
    handed = Handover.model_validate_json(sys.stdin.buffer.read())
    connected, *listeners = (socket.socket(fileno=each) for each in (channel_fd, *listening))
    for inherited in (connected, *listeners):
        inherited.set_inheritable(False)
    os.set_inheritable(crowd_fd, False)
    main_port, admin_port = listeners[0], listeners[1] if len(listeners) > 1 else None
    ports = Ports(main_port, admin_port, Crowd(crowd_fd, handed.settings.workers, number - 1))
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        sys.exit(runner.run(work(handed, number, ports, connected)))


if __name__ == "__main__":
    main()
