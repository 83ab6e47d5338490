"""Free ports of the loopback."""

from __future__ import annotations

import socket


def free_port(most: int = 65535) -> int:
    """A port that nothing listens on now; the system hands the same one out again only after many others.

    Args:
        most: Largest number that will do.
    """
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port <= most:
            return port
