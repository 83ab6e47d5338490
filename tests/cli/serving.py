"""`espalier serve` as a process of its own, over a file store."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from adapters_store.store import AdapterStore
from adapters_store.urls import open_backend
from benchmarks.forge import Run
from tests.service.live import fill

# the command as `espalier serve` runs it, without the other subcommands
PROGRAM = "import typer; from cli.serve import serve; typer.run(serve)"


async def file_store(folder: Path, run: Run) -> str:
    """A file store with a run's artifacts; its URL."""
    url = folder.as_uri()
    await fill_store(url, run)
    return url


async def fill_store(url: str, run: Run) -> None:
    """Put a run's artifacts into the store of a URL."""
    store = AdapterStore(open_backend(url, create=True), time.time)
    await fill(store, run, None)
    await store.close()


def command(*options: str) -> list[str]:
    """The command line of a server with these options."""
    return [sys.executable, "-c", PROGRAM, *options]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without our own variables, and with these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ESPALIER_")}
    return kept | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"} | variables


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    store: str, *options: str, trust: ssl.SSLContext | None = None, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server that is ready; yields its process and address, and kills it at the end if it still runs.

    Args:
        store: URL of its store.
        options: of the command.
        trust: what is spoken with it, where its variables give it a certificate.
        variables: of its environment.
    """
    port = free_port()
    url = f"{'http' if trust is None else 'https'}://127.0.0.1:{port}"
    process = subprocess.Popen(
        command("--store", store, "--port", str(port), *options),
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_ready(process, url, trust)
        yield process, url
    finally:
        process.kill()
        process.communicate()


def wait_ready(process: subprocess.Popen[str], url: str, trust: ssl.SSLContext | None = None) -> None:
    """Until it says that it is ready; if it ends first, what it said fails the test."""
    while process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/healthz/ready", timeout=5, verify=trust or True).status_code == 200:
                return
    raise AssertionError(f"the server ended with {process.returncode}: {process.communicate()}")


def wait_closed(host: str, port: int) -> None:
    """Until nobody accepts connections there."""
    while True:
        try:
            socket.create_connection((host, port)).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            continue  # it was still in the queue of the socket that closed: ask again
