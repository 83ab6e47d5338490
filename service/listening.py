"""The listening sockets of a service, and where they are reached."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from service.crowd import Crowd
from service.refusals import SettingsInvalid
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Ports:
    """The sockets of one service, bound and not blocking; several processes may share them.

    Args:
        main: scores are asked for here.
        admin: metrics, publishing and reading; None where they share the main port.
        crowd: how many connections each process has; None where there is one alone.
    """

    main: socket.socket
    admin: socket.socket | None = None
    crowd: Crowd | None = None

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """Those that there are, the main one first."""
        return (self.main,) if self.admin is None else (self.main, self.admin)

    def close(self) -> None:
        """Take no more connections in this process."""
        for each in self.sockets:
            each.close()
        if self.crowd is not None:
            self.crowd.close()


@contextmanager
def bound_ports(settings: Settings) -> Iterator[Ports]:
    """The sockets of the settings; closed at the end.

    Raises:
        SettingsInvalid: an address is taken, or not of this machine.
    """
    with ExitStack() as opened:
        main, admin, crowd = opened.enter_context(bound_socket(settings.host, settings.port)), None, None
        if settings.admin_port is not None:
            host, chosen = settings.admin_host or settings.host, "admin_host or admin_port"
            admin = opened.enter_context(bound_socket(host, settings.admin_port, chosen))
        if settings.workers > 1:
            crowd = opened.enter_context(closing(Crowd.opened(settings.workers)))
        yield Ports(main, admin, crowd)


def bound_socket(host: str, port: int, chosen: str = "--host or --port") -> socket.socket:
    """A socket bound to the address, which nobody can reach until a server listens on it.

    Args:
        host: address, or a name that has one.
        port: 0 takes a free one.
        chosen: what a refusal tells to choose another of.

    Raises:
        SettingsInvalid: the address is taken, or not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise SettingsInvalid(
            f"the service cannot listen on {host}:{port}: {error.strerror}; choose another {chosen}"
        ) from error
    listener.setblocking(False)
    return listener


def main_url(ports: Ports, settings: Settings) -> str:
    """Where scores are asked for, with the port that it really has."""
    return _url_of(ports.main, settings.host, settings)


def admin_url(ports: Ports, settings: Settings) -> str | None:
    """Where the admin port is reached, if there is one."""
    return None if ports.admin is None else _url_of(ports.admin, settings.admin_host or settings.host, settings)


def _url_of(listener: socket.socket, host: str, settings: Settings) -> str:
    scheme = "http" if settings.tls_cert is None else "https"
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{listener.getsockname()[1]}"
