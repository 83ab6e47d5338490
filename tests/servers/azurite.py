"""Azure Blob Storage over HTTP for tests: Azurite, Microsoft's own server of it. `make test-azure` installs it."""

from __future__ import annotations

import base64
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx
from azure.storage.blob import BlobServiceClient

from tests.servers.ports import free_port

INSTALLED = Path(__file__).resolve().parents[2] / "build" / "azurite" / "node_modules" / ".bin" / "azurite-blob"
READY_S = 60.0
ACCOUNT, CONTAINER = "espalier", "tests"


@dataclass(frozen=True)
class AzureServer:
    """A blob endpoint with one account and one container.

    Args:
        endpoint: http://127.0.0.1:port/account
        env: environment variables with the credentials.
    """

    endpoint: str
    env: dict[str, str] = field(repr=False)

    def url(self, prefix: str, **options: object) -> str:
        """The URL of a store in the container."""
        query = {"endpoint": self.endpoint, **options}
        return f"az://{CONTAINER}/{prefix}?" + "&".join(f"{k}={quote(str(v), safe='')}" for k, v in query.items())


def program() -> str | None:
    """Azurite, or None where it is not installed."""
    return str(INSTALLED) if INSTALLED.exists() else shutil.which("azurite-blob")


@contextmanager
def serve_azurite(folder: Path) -> Iterator[AzureServer]:
    """Start it on a free port of the loopback with a key of its own; stop it at the end.

    Args:
        folder: its files.
    """
    found = program()
    assert found is not None
    port, key = free_port(), base64.b64encode(secrets.token_bytes(64)).decode()
    command = [found, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder), "--silent"]
    command += ["--disableTelemetry", "--skipApiVersionCheck"]
    variables = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}", **_path()}
    with (folder / "azurite.log").open("wb") as log:
        server = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
    try:
        endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        _wait(server, endpoint, folder / "azurite.log")
        BlobServiceClient(endpoint, credential=key).create_container(CONTAINER).close()
        yield AzureServer(endpoint, {"AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": key})
    finally:
        server.kill()
        server.wait()


def _path() -> dict[str, str]:
    node = shutil.which("node")
    return {"PATH": str(Path(node).parent) if node else ""}


def _wait(server: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    until = time.monotonic() + READY_S
    while server.poll() is None and time.monotonic() < until:
        try:
            httpx.get(endpoint, timeout=5)
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError(f"Azurite did not start: {log.read_text(errors='replace')[-1000:]}")
