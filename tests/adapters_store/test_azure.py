"""Azure Blob Storage keeps the contract: Azurite. `make test-azure` installs it; else this is skipped."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest

from adapters_store.backend import Backend
from adapters_store.canonical import digest
from adapters_store.errors import StoreUnavailable
from adapters_store.objects import open_objects
from tests.adapters_store.contract import BackendContract, Open, content_of, record
from tests.servers.azurite import AzureServer, program, serve_azurite

TIMEOUT_S = 10.0

pytestmark = [
    pytest.mark.skipif(program() is None, reason="Azurite is not installed: make test-azure installs and runs it"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    """One server for all tests of this file; each takes a prefix of its own."""
    with serve_azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture
def azure(azurite: AzureServer, monkeypatch: pytest.MonkeyPatch) -> AzureServer:
    """Azurite, with its credentials in the environment."""
    for name, value in azurite.env.items():
        monkeypatch.setenv(name, value)
    return azurite


class TestAzure(BackendContract):
    """Azurite over HTTP, with signed requests."""

    @pytest.fixture
    async def open_backend(self, azure: AzureServer) -> AsyncIterator[Open]:
        """A new client of one prefix."""
        url = azure.url(f"some/{secrets.token_hex(4)}", poll_s=0.02)
        clients: list[Backend] = []

        def open_it() -> Backend:
            clients.append(open_objects(url, timeout_s=TIMEOUT_S))
            return clients[-1]

        yield open_it
        for client in clients:
            await client.close()


async def test_many_clients_lose_no_increment(azure: AzureServer) -> None:
    """Law: 8 clients that add one 10 times each leave generation exactly 80."""
    url = azure.url(f"some/{secrets.token_hex(4)}")

    async def increment() -> None:
        client = open_objects(url, timeout_s=TIMEOUT_S)
        for _ in range(10):
            while True:
                held = await content_of(client, "domain/a") or record(0)
                if await client.compare_and_set("domain/a", held["generation"], record(held["generation"] + 1)):
                    break
        await client.close()

    await asyncio.gather(*(increment() for _ in range(8)))
    client = open_objects(url, timeout_s=TIMEOUT_S)
    assert await content_of(client, "domain/a") == record(80)
    await client.close()


async def test_large_blob_comes_back(azure: AzureServer) -> None:
    """Law: a blob that is sent in several parts comes back as it was."""
    content = secrets.token_bytes(1 << 20) * 11
    client = open_objects(azure.url("large"), timeout_s=TIMEOUT_S)
    await client.put_blob(digest(content), content)
    assert digest(await client.get_blob(digest(content))) == digest(content)
    await client.close()


async def test_wrong_key_is_told(azure: AzureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a signature that does not fit is unavailable with what to do, and repeats no key."""
    wrong = base64.b64encode(b"wrong" * 8).decode()
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", wrong)
    client = open_objects(azure.url("x"), timeout_s=TIMEOUT_S)
    with pytest.raises(StoreUnavailable, match="access denied") as raised:
        await client.versions("")
    assert wrong not in str(raised.value)
    await client.close()
