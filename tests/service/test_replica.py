"""Laws of a replica's start and stop."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from adapters_store.backbone import read_bundle, write_bundle
from adapters_store.memory import MemoryBackend
from adapters_store.store import AdapterStore
from adapters_store.tensors import write_tensors
from benchmarks.forge import Run
from service.clock import LoopClock
from service.errors import StartError
from service.observer import SilentObserver
from service.replica import Replica
from service.replica_config import ReplicaConfig
from tests.service.core import opened

CONFIG = ReplicaConfig()


async def start(store: AdapterStore) -> Replica:
    """Open a replica with defaults."""
    return await Replica.open(store, config=CONFIG, observer=SilentObserver(), clock=LoopClock())


async def test_a_store_without_a_backbone_says_what_to_publish() -> None:
    """Opening fails with the command that helps."""
    with pytest.raises(StartError, match="espalier publish"):
        await start(AdapterStore(MemoryBackend(), lambda: 0.0))


async def test_a_backbone_that_the_engine_does_not_reproduce_never_serves(random_run: Run, tmp_path: Path) -> None:
    """The bundle's golden rows are checked at every start, with this replica's engine."""
    bundle = read_bundle(random_run.folder / "bundle")
    golden = bundle.tensors("golden")
    golden["logits"] = golden["logits"] + 0.5
    files = {name: bundle.file(name) for name in bundle.files}
    files["golden.safetensors"] = write_tensors(golden, {"content": "golden"})
    write_bundle(tmp_path / "bundle", bundle.manifest, files)
    store = AdapterStore(MemoryBackend(), lambda: 0.0)
    await store.publish_backbone(tmp_path / "bundle", "test")
    with pytest.raises(StartError, match="golden row"):
        await start(store)


async def test_stopping_answers_what_was_asked(random_run: Run) -> None:
    """Requests in the queue are scored before the threads end, and stopping leaves no task behind."""
    async with opened(random_run) as core:
        await core.replica.start()
        await core.publish("theme-1")
        requests = [asyncio.create_task(core.score("theme-1")) for _ in range(20)]
        await asyncio.sleep(0)
        await core.replica.stop()
        results = await asyncio.gather(*requests)
        assert {result.served.fallback for result in results} == {None}
    assert asyncio.all_tasks() == {asyncio.current_task()}
