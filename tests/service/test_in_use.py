"""Laws of noting what serves: the disk keeps it while others come and go, and a restart without the store finds it."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

import pytest

from adapters_store.releases import Release
from benchmarks.forge import Run
from service.in_use import EVERY_S
from tests.factory import THEMES
from tests.service.clockwork import ManualClock, quiet, turns_until
from tests.service.core import Core, filled, opened
from tests.service.prepared.rig import files
from tests.service.test_table_watch import published

DOMAIN, OTHER = THEMES[:2]
DAY_S = 86_400.0


def aged(cache: Path) -> None:
    """Time passes: nothing on the disk was used since yesterday."""
    for path in files(cache):
        os.utime(path, (time.time() - DAY_S, path.stat().st_mtime))


def used_lately(cache: Path) -> set[str]:
    """Blobs whose use is of the last minutes."""
    return {path.name for path in files(cache) if time.time() - path.stat().st_atime < DAY_S / 2}


async def put_in_service(core: Core) -> None:
    """One domain serves by its record, another one by a release, and a delta lies on the items."""
    await core.put_live(DOMAIN)
    await published(core, ["new"])
    named = {OTHER: await core.store.put(core.dye(OTHER, 0.4))}
    await core.store.flip(await core.store.put_release(Release(divisions={"theme": named})), "test", min_staged=0)
    await core.replica.watcher.reconcile()


async def served(core: Core) -> list[object]:
    """What says which blobs score both domains, by no fallback."""
    results = [await core.score(domain, ["new"]) for domain in (DOMAIN, OTHER)]
    return [
        (each.served.revision, each.served.features, each.served.fallback, each.scores.tobytes()) for each in results
    ]


@pytest.mark.parametrize("prepared", [True, False])
async def test_what_serves_is_on_the_disk_whatever_is_published(
    three_way_run: Run, tmp_path: Path, prepared: bool
) -> None:
    """Law: bundle, tables, release, adapters, pins and fusion that serve from memory outlive any number of publishes of
    others, also where adapters came from prepared blobs; a restart without the store serves the same."""
    backend, cache = await filled(three_way_run), tmp_path / "cache"
    async with opened(three_way_run, on=backend, cache=cache) as core:
        await put_in_service(core)
        before = await served(core)
        await core.replica.settled()
    room = 2 * sum(path.stat().st_size for path in files(cache))
    async with opened(three_way_run, on=backend, cache=cache, cache_bytes=room) as core:
        assert await served(core) == before
        assert core.replica.in_use is not None
        for _ in range(24):
            aged(cache)
            await core.replica.in_use.note()
            await core.replica.reader.put(secrets.token_bytes(room // 10))
    backend.away = True
    async with opened(three_way_run, on=backend, cache=cache, prepared=prepared) as core:
        assert await served(core) == before
        assert core.replica.domains.fleet.pointer.generation == 1


async def test_use_is_noted_again_and_again_by_the_clock(random_run: Run, tmp_path: Path) -> None:
    """Law: every ten minutes all that serves counts as used, and nothing else does."""
    clock, cache = ManualClock(), tmp_path / "cache"
    async with opened(random_run, clock, cache=cache) as core:
        await core.put_live(DOMAIN)
        await core.replica.loader.refresh(DOMAIN)
        await core.replica.settled()
        beside = await core.replica.reader.put(b"beside")
        assert core.replica.in_use is not None
        core.replica.in_use.start()
        await quiet()
        needed = {path.name for path in files(cache)} - {beside}
        for _ in range(2):
            aged(cache)
            await clock.advance(EVERY_S - 1)
            assert used_lately(cache) == set()
            await clock.advance(1)
            await turns_until(lambda: bool(used_lately(cache)) and clock.waiting == 1)
            assert used_lately(cache) <= needed
            assert core.replica.backbone_revision in used_lately(cache)


async def test_nothing_is_noted_without_a_disk_cache(random_run: Run) -> None:
    """Law: without a disk there is nothing to note, and nothing waits for the clock."""
    async with opened(random_run) as core:
        assert core.replica.in_use is None
