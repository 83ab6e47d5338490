"""The service as tests meet it: a replica over a filled store, asked through ASGI or a real server on a free port."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from adapters_store.memory import MemoryBackend
from adapters_store.store import AdapterStore
from benchmarks.forge import Run, digest
from benchmarks.oracle_files import read_safetensors
from service.app import create_app
from service.auth import TokenBook, TokenEntry
from service.clock import LoopClock
from service.listening import bound_socket
from service.logs import open_log
from service.metrics import Metrics
from service.peers import Peers
from service.replica import Replica
from service.server import QuietServer, uvicorn_config
from service.settings import Settings, load_settings
from service.tracing import Tracing


def settings_of(**given: object) -> Settings:
    """Settings of a server for tests."""
    return load_settings({"store": "memory://", **given}, environ={})


@asynccontextmanager
async def listening(app: FastAPI, settings: Settings) -> AsyncIterator[int]:
    """Serve an app; yields the port."""
    started = asyncio.Event()
    with bound_socket("127.0.0.1", 0) as listener:
        server = QuietServer(uvicorn_config(app, settings), started.set)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await started.wait()
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            await serving


async def exchange(port: int, *parts: bytes, until: bytes = b"") -> bytes:
    """Send raw bytes and read what comes back.

    Args:
        port: of the server.
        parts: sent one after the other; None of them waits for a reply.
        until: stop reading at these bytes; by default when the server closes the connection.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        # the server may close before everything is sent; what it said before is what counts
        with suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
        with suppress(ConnectionError):
            while not (until and until in received) and (some := await reader.read(65_536)):
                received += some
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    return received


@dataclass(frozen=True)
class Live:
    """A service over a filled store.

    Args:
        client: speaks to it with the token `admin`.
        log: what it logged.
    """

    app: FastAPI
    client: httpx.AsyncClient
    replica: Replica
    store: AdapterStore
    metrics: Metrics
    log: io.StringIO
    settings: Settings

    @property
    def audit(self) -> list[dict[str, Any]]:
        """The audit lines of what clients asked for so far."""
        return [line for line in self.lines if line["event"] == "audit" and "request_id" in line]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Every line logged so far."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    async def publish(self, domain: str, body: bytes, **options: Any) -> httpx.Response:
        """POST an adapter with its digest; options go to the client's post."""
        params = {"revision": digest(body), **options.pop("params", {})}
        return await self.client.post(f"/adapters/{domain}", content=body, params=params, **options)


@asynccontextmanager
async def espalier(
    run: Run,
    tokens: Mapping[str, Sequence[str]] | None = None,
    publish: Sequence[str] | None = None,
    peers: Peers | None = None,
    tracing: Tracing | None = None,
    **given: object,
) -> AsyncIterator[Live]:
    """A service over a memory store with a run's bundle, fusion and adapters.

    Args:
        run: the artifacts.
        tokens: token (also its name) -> scopes; one `admin` if absent, none at all if empty.
        publish: domains whose adapters are live; every one if absent.
        peers: the other workers.
        tracing: makes spans.
        given: settings.
    """
    tokens = {"admin": ["admin"]} if tokens is None else tokens
    stream = io.StringIO()
    log = open_log(stream=stream)
    metrics, settings = Metrics(log), settings_of(**given)
    store = AdapterStore(MemoryBackend(), time.time)
    await fill(store, run, publish)
    replica = await Replica.open(store, config=settings.replica, observer=metrics, clock=LoopClock(), peers=peers)
    await replica.start()
    app = create_app(replica, settings=settings, tokens=book_of(tokens), metrics=metrics, log=log, tracing=tracing)
    headers = {"Authorization": "Bearer admin"} if tokens else {}
    transport = httpx.ASGITransport(app)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            yield Live(app, client, replica, store, metrics, stream, settings)
    finally:
        await replica.stop()
        await store.close()


def book_of(tokens: Mapping[str, Sequence[str]]) -> TokenBook:
    """Tokens that are their own names."""
    return TokenBook(
        [
            TokenEntry(name=token, sha256=hashlib.sha256(token.encode()).hexdigest(), scopes=list(scopes))
            for token, scopes in tokens.items()
        ]
    )


async def fill(store: AdapterStore, run: Run, publish: Sequence[str] | None) -> None:
    """Put a run's bundle, fusion and adapters into a store."""
    await store.publish_backbone(run.folder / "bundle", by="test")
    await store.put((run.folder / "fusion.safetensors").read_bytes())
    for path in sorted((run.folder / "adapters").glob("*.safetensors")):
        manifest = read_safetensors(path)[1]
        revision = await store.put(path.read_bytes())
        if publish is None or manifest["domain"] in publish:
            await store.set_live(manifest["domain"], manifest["division"], revision, by="test")


def adapter(run: Run, domain: str, mode: str = "attention") -> bytes:
    """An adapter of the run, in one mode; each mode is a revision of its own."""
    return Path(run.folder / "ablations" / mode / f"{domain}.safetensors").read_bytes()
