"""What the server and the generator cost while a test runs."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from loadtest.errors import LoadTestError


@dataclass(frozen=True, slots=True)
class Cost:
    """One look.

    Args:
        at_s: since the plan began.
        generator_cpu: share of one core that this program used since the last look.
        server_cpu: likewise, of the server with its workers; None where it is not watched.
        resident_bytes: of the server's memory.
        descriptors: open files and connections of the server.
    """

    at_s: float
    generator_cpu: float
    server_cpu: float | None = None
    resident_bytes: int | None = None
    descriptors: int | None = None


class Watch:
    """Looks at this program and, if it runs on this machine, at the server.

    Args:
        server_pid: process id of `espalier serve`; None watches this program alone.

    Raises:
        LoadTestError: there is no such process.
    """

    def __init__(self, server_pid: int | None) -> None:
        self.costs: list[Cost] = []
        self._own = psutil.Process()
        try:
            first = None if server_pid is None else psutil.Process(server_pid)
            # the workers are there once the server is ready, and that it was before the test
            self._server = [] if first is None else [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess as error:
            raise LoadTestError(f"no process {server_pid} to watch") from error
        self.look(0.0)
        self.costs.clear()

    def look(self, at_s: float) -> None:
        """Note one look; a server that is gone is watched no longer."""
        own = self._own.cpu_percent() / 100
        try:
            cpu = sum(process.cpu_percent() for process in self._server) / 100
            resident = sum(process.memory_info().rss for process in self._server)
            descriptors = sum(process.num_fds() for process in self._server)
        except psutil.Error:
            self._server = []
        if self._server:
            self.costs.append(Cost(at_s, own, cpu, resident, descriptors))
        else:
            self.costs.append(Cost(at_s, own))
