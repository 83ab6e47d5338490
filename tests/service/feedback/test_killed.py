"""Laws of a killed process: every acknowledged event is there afterwards, and no line is half of one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.forge import Run
from service.feedback.folder import SegmentFolder
from tests.cli.serving import file_store, running
from tests.service.feedback.parts import lines_of

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def appending(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The appender; killed at the end at the latest."""
    command = [sys.executable, "-m", "tests.service.feedback.appender", str(folder), *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def items_after_recovery(folder: Path) -> list[str]:
    """What another process finds, once it has closed what the dead one left; every line is whole JSON."""
    SegmentFolder(folder).close_orphans()
    assert not list(folder.glob("*.open.ndjson"))
    for path in folder.rglob("*.ndjson"):
        assert path.read_bytes().endswith(b"\n")
    return [line["item_id"] for line in lines_of(folder)]


@pytest.mark.parametrize("batches", [1, 40, 173])
def test_what_was_acknowledged_before_a_kill_is_there(tmp_path: Path, batches: int) -> None:
    """Law: after SIGKILL at any moment every acknowledged event is found, once, over rotated segments too."""
    with appending(tmp_path / "f") as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().split() for _ in range(batches)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [line.split() for line in process.stdout if line.endswith("\n")]
    found = items_after_recovery(tmp_path / "f")
    assert {number for line in acknowledged for number in line} <= set(found)
    assert len(found) == len(set(found))


def test_a_kill_between_write_and_sync_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Law: bytes that are written and not synced are not acknowledged; killed there, what was acknowledged is kept."""
    with appending(tmp_path / "f", "hold") as process:
        assert process.stdout is not None
        said = iter(process.stdout.readline, "holding\n")
        acknowledged = {number for line in said for number in line.split()}
        written = {line["item_id"] for line in lines_of(tmp_path / "f")}
        assert written > acknowledged
        process.send_signal(signal.SIGKILL)
        assert process.stdout.read() == ""
    found = set(items_after_recovery(tmp_path / "f"))
    assert acknowledged
    assert acknowledged <= found <= written


async def every_event_is_matched(client: httpx.AsyncClient, folder: Path) -> None:
    """Law: whichever of the workers scored and whichever got the label, the event is matched in the end."""
    asked = {"user_id": "1", "domain_id": "theme-1", "item_ids": ["item-1"]}
    named = [(await client.post("/score", json=asked)).json()["request_id"] for _ in range(20)]
    for request_id in named:
        events = [{"request_id": request_id, "item_id": "item-1", "label": 1}]
        assert (await client.post("/feedback", json={"events": events})).status_code == 200
    matched: set[str] = set()
    while matched != set(named):  # each worker looks every second; pytest bounds the wait
        await asyncio.sleep(0.05)
        matched = {line["request_id"] for line in lines_of(folder) if line.get("matched")}


async def test_a_killed_worker_of_a_service_loses_nothing_acknowledged(random_run: Run, tmp_path: Path) -> None:
    """Law: with two workers of which one is killed while feedback comes, every event with a 200 is on disk."""
    store, folder = await file_store(tmp_path / "store", random_run), tmp_path / "f"
    acknowledged: set[str] = set()
    with running(store, "--workers", "2", ESPALIER_FEEDBACK_DIR=str(folder)) as (process, url):
        first = min(psutil.Process(process.pid).children(), key=lambda child: child.create_time()).pid

        # a connection of its own for each request: any worker takes it
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=url, limits=limits, verify=False, timeout=60) as client:
            await every_event_is_matched(client, folder)

            async def send(sender: int) -> None:
                for number in range(40):
                    name = f"{sender}-{number}"
                    event = {"user_id": "1", "domain_id": "theme-1", "item_id": name, "label": 1}
                    try:
                        reply = await client.post("/feedback", json={"events": [event]})
                    except httpx.TransportError:
                        continue
                    if reply.status_code == 200:
                        acknowledged.add(name)
                    if sender == 0 and number == 15:
                        os.kill(first, signal.SIGKILL)

            await asyncio.gather(*(send(sender) for sender in range(4)))
        assert len(list(folder.rglob("*.ndjson"))) >= 2
    found = [
        json.loads(line)["item_id"] for path in folder.rglob("*.ndjson") for line in path.read_bytes().splitlines()
    ]
    assert len(acknowledged) > 100
    assert acknowledged <= set(found)
