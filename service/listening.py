"""The one listening socket of a service, and where it is reached."""

from __future__ import annotations

import socket

from service.refusals import SettingsInvalid


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket bound to the address, which nobody can reach until a server listens on it.

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
            f"the service cannot listen on {host}:{port}: {error.strerror}; choose another --host or --port"
        ) from error
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket, host: str) -> str:
    """Where a bound socket is reached, with the port that it really has."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"
