"""A real S3 server with signatures keeps the contract: Ceph RGW. `make test-ceph` installs it; else this is skipped."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest

from adapters_store.backend import Backend
from adapters_store.canonical import digest
from adapters_store.errors import StoreUnavailable
from adapters_store.objects import open_objects
from tests.adapters_store.contract import BackendContract, Open, content_of, record
from tests.servers.ceph import missing_programs, serve_ceph
from tests.servers.s3 import S3Server

TIMEOUT_S = 10.0

pytestmark = [
    pytest.mark.skipif(bool(missing_programs()), reason="Ceph is not installed: make test-ceph installs and runs it"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One cluster for all tests of this file; each takes a prefix of its own."""
    with serve_ceph(tmp_path_factory.mktemp("ceph")) as server:
        yield server


@pytest.fixture
def rgw(ceph: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """RGW, with its credentials in the environment."""
    for name, value in ceph.env.items():
        monkeypatch.setenv(name, value)
    return ceph


class TestCeph(BackendContract):
    """Ceph RGW over HTTP, with signed requests."""

    @pytest.fixture
    async def open_backend(self, rgw: S3Server) -> AsyncIterator[Open]:
        """A new client of one prefix."""
        url = rgw.url(f"some/{secrets.token_hex(4)}", poll_s=0.02)
        clients: list[Backend] = []

        def open_it() -> Backend:
            clients.append(open_objects(url, timeout_s=TIMEOUT_S))
            return clients[-1]

        yield open_it
        for client in clients:
            await client.close()


async def test_many_clients_lose_no_increment(rgw: S3Server) -> None:
    """Law: 16 clients that add one 10 times each leave generation exactly 160."""
    url = rgw.url(f"some/{secrets.token_hex(4)}")

    async def increment() -> None:
        client = open_objects(url, timeout_s=TIMEOUT_S)
        for _ in range(10):
            while True:
                held = await content_of(client, "domain/a") or record(0)
                if await client.compare_and_set("domain/a", held["generation"], record(held["generation"] + 1)):
                    break
        await client.close()

    await asyncio.gather(*(increment() for _ in range(16)))
    client = open_objects(url, timeout_s=TIMEOUT_S)
    assert await content_of(client, "domain/a") == record(160)


async def test_large_blob_comes_back(rgw: S3Server) -> None:
    """Law: a blob that is sent in several parts comes back as it was."""
    content = secrets.token_bytes(1 << 20) * 11
    client = open_objects(rgw.url("large"), timeout_s=TIMEOUT_S)
    await client.put_blob(digest(content), content)
    assert digest(await client.get_blob(digest(content))) == digest(content)


async def test_wrong_secret_is_told(rgw: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a signature that does not fit is unavailable with what to do, and repeats neither key nor secret."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreUnavailable, match="access denied") as raised:
        await open_objects(rgw.url("x"), timeout_s=TIMEOUT_S).versions("")
    assert rgw.env["AWS_ACCESS_KEY_ID"] not in str(raised.value)
