"""What a load test leaves alone and a dashboard shows: canary, shadow, another writer, feedback, and what is refused.

The load test judges every answer against the changes that it made itself, so what is stirred here are domains of our
own, which it never asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars

from adapters_store.artifact import decode_adapter, encode_adapter
from adapters_store.records import rfc3339
from adapters_store.store import AdapterStore
from adapters_store.urls import open_backend
from benchmarks.claims.wire import Wire, score_body
from benchmarks.claims.workplace import ROOT, ClaimError

DOMAINS = ("stirred-shadow", "stirred-canary", "stirred-live")
REFUSED = "stirred-refused"
ITEMS = 20
EACH_S = 0.05
EVERY = 10  # so many scored requests between two that are to be refused
MOVED_EACH_S = 5.0  # more than a replica takes to follow: of two changes at once it may see only the last
BY = "stirring"


@contextlib.contextmanager
def stirring(folder: Path, store: str, url: str, token: str) -> Iterator[None]:
    """Change domains of our own beside a load test, score them and tell what became of it, until the block ends.

    Beside them go requests that are to be refused: too late, too often, and of a domain whose adapter is a broken one.

    Args:
        folder: of the load test.
        store: URL of what its server serves from.
        url: of its server.
        token: that may score there.

    Raises:
        ClaimError: a change, or an answer, failed.
    """
    shadowed, tried, moved = DOMAINS
    catalogue = json.loads((folder / "catalogue" / "catalogue.json").read_text())
    first = asyncio.run(publish(store, catalogue["domains"][0], 0.0, live=True))
    asyncio.run(publish_broken(store, catalogue["domains"][0]))
    limits = ("--requests-per-s", "1", "--burst", "1")
    tokens = str(folder / "tokens.yaml")
    limited = said("token", "new", "--name", "limited", "--scope", "score", *limits, "--out", tokens).split()[-1]
    other = asyncio.run(publish(store, catalogue["domains"][0], 0.25, live=False))
    ended = threading.Event()
    bodies = [
        score_body(user, domain, catalogue["items"][:ITEMS]) for user in catalogue["users"][:50] for domain in DOMAINS
    ]
    refused: list[int] = []

    async def beside() -> None:
        await asyncio.gather(
            score(url, token, bodies, ended, refused),
            be_refused(url, token, limited, bodies[0], ended),
            move(store, moved, (other[moved], first[moved]), ended),
        )

    thread = threading.Thread(target=lambda: asyncio.run(beside()))
    thread.start()
    try:
        said("adapters", "shadow", shadowed, other[shadowed], "--percent", "100", "--store", store)
        said("adapters", "canary", tried, other[tried], "--percent", "50", "--store", store)
        table = folder / "items.parquet"
        polars.read_parquet(folder / "data" / "items.parquet").rename({"item_id": "id"}).write_parquet(table)
        said("features", "publish", str(table), "--side", "items", "--full", "--store", store)
        yield
    finally:
        ended.set()
        thread.join()
    if refused:
        raise ClaimError(f"{len(refused)} requests for {', '.join(DOMAINS)} were not answered 200: {set(refused)}")


async def publish(store_url: str, source: str, intercept: float, *, live: bool) -> dict[str, str]:
    """Store a live adapter of `source` under our domains, made now, calibrated differently; domain -> revision."""
    store = AdapterStore(open_backend(store_url, timeout_s=30), time.time)
    try:
        record = await store.domain(source)
        if record is None or record.live is None:
            raise ClaimError(f"{source} has no adapter to copy")
        adapter = decode_adapter(await store.get(record.live.revision))
        calibration = adapter.manifest.calibration.model_copy(update={"intercept": intercept})
        revisions = {}
        for domain in DOMAINS:
            made = {"domain": domain, "calibration": calibration, "created_at": rfc3339(time.time())}
            manifest = adapter.manifest.model_copy(update=made)
            revisions[domain] = await store.put(encode_adapter(manifest, adapter.tensors))
            if live:
                pins, fusion = manifest.fuses, manifest.fusion
                await store.set_live(domain, manifest.division, revisions[domain], BY, pins=pins, fusion=fusion)
        return revisions
    finally:
        await store.close()


async def publish_broken(store_url: str, source: str) -> None:
    """Make live what no replica takes: golden rows that the adapter does not reproduce."""
    store = AdapterStore(open_backend(store_url, timeout_s=30), time.time)
    try:
        record = await store.domain(source)
        assert record is not None
        assert record.live is not None
        adapter = decode_adapter(await store.get(record.live.revision))
        manifest = adapter.manifest.model_copy(update={"domain": REFUSED})
        tensors = {**adapter.tensors, "golden.logits": adapter.tensors["golden.logits"] + 1.0}
        broken = await store.put(encode_adapter(manifest, tensors))
        pins, fusion = manifest.fuses, manifest.fusion
        await store.set_live(REFUSED, manifest.division, broken, BY, pins=pins, fusion=fusion)
    finally:
        await store.close()


async def be_refused(url: str, token: str, limited: str, body: bytes, ended: threading.Event) -> None:
    """Ask too late, too often, and for the domain whose adapter is refused."""
    late = {"Authorization": f"Bearer {token}", "X-Deadline-Ms": "1"}
    often = {"Authorization": f"Bearer {limited}"}
    refused = json.dumps({**json.loads(body), "domain_id": REFUSED}).encode()
    # a connection each: one that asked with a token that is not known yet is closed
    asked = ((late, body), (often, refused), (often, refused))  # one more than the token may
    with contextlib.suppress(OSError, EOFError):
        while not ended.is_set():
            for headers, content in asked:
                async with Wire(url, headers) as wire:
                    await wire.post("/score", content)
            await asyncio.sleep(EVERY * EACH_S)


async def score(url: str, token: str, bodies: Sequence[bytes], ended: threading.Event, refused: list[int]) -> None:
    """Ask for our domains in turn, a few times a second, and tell labels; what is not answered 200 is noted.

    The server may end first: the load test starts and stops it.
    """
    with contextlib.suppress(OSError, EOFError):
        async with Wire(url, {"Authorization": f"Bearer {token}"}) as wire:
            for body in itertools.cycle(bodies):
                if ended.is_set():
                    return
                status, answer = await wire.post("/score", body)
                if status == 200:
                    status, _ = await wire.post("/feedback", labels(body, answer))
                if status != 200:
                    refused.append(status)
                await asyncio.sleep(EACH_S)


def labels(asked: bytes, answered: bytes) -> bytes:
    """Feedback on a response: the first item of it was liked, no other."""
    request_id, items = json.loads(answered)["request_id"], json.loads(asked)["item_ids"]
    events = [{"request_id": request_id, "item_id": item, "label": int(item == items[0])} for item in items]
    return json.dumps({"events": events}).encode()


async def move(store_url: str, domain: str, revisions: Sequence[str], ended: threading.Event) -> None:
    """Make one revision live after the other, as another writer does, until the block ends."""
    store = AdapterStore(open_backend(store_url, timeout_s=30), time.time)
    try:
        record = await store.domain(domain)
        assert record is not None
        for revision in itertools.cycle(revisions):
            until = time.monotonic() + MOVED_EACH_S
            while time.monotonic() < until:
                if ended.is_set():
                    return
                await asyncio.sleep(0.1)
            await store.set_live(domain, record.division, revision, BY)
    finally:
        await store.close()


def said(*arguments: str) -> str:
    """What a command of Espalier prints.

    Raises:
        ClaimError: it failed.
    """
    command = [str(Path(sys.executable).with_name("espalier")), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClaimError(f"{' '.join(arguments)}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return done.stdout
