"""Laws of the disk cache: a replica that starts without its store serves what it served, and nothing older."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapters_store.errors import StoreError, StoreUnavailable
from adapters_store.releases import Release
from benchmarks.forge import Run, digest, forge
from tests.factory import THEMES
from tests.service.clockwork import turns_until
from tests.service.core import assert_scores, filled, opened

DOMAIN, OTHER, THIRD = THEMES[:3]


async def test_a_restart_without_the_store_serves_what_it_served(random_run: Run, tmp_path: Path) -> None:
    """Law: every domain on this disk is scored by its live revision, by record or release, and is no fallback."""
    backend, cache = await filled(random_run), tmp_path / "cache"
    bodies = {DOMAIN: dyed(random_run, DOMAIN, 0.2), THIRD: dyed(random_run, THIRD, 0.4)}
    async with opened(random_run, on=backend, cache=cache) as core:
        await core.put_live(DOMAIN, bodies[DOMAIN])
        await core.put_live(OTHER)
        named = {THIRD: await core.store.put(bodies[THIRD])}
        await core.store.flip(await core.store.put_release(Release(divisions={"theme": named})), "test", min_staged=0)
        await core.replica.releases.follow()
        for domain in bodies:
            await core.score(domain, strict=True)
    backend.away = True
    async with opened(random_run, on=backend, cache=cache) as core:
        await core.replica.start()
        # one that was never here fails, and keeps nobody from what is on the disk
        assert (await core.score(OTHER)).served.fallback == "store_unavailable"
        for domain, body in bodies.items():
            result = await core.score(domain, strict=True)
            assert (result.served.revision, result.served.fallback) == (digest(body), None)
            assert_scores(result, core.expected(domain, body))
        assert core.replica.domains.fleet.pointer.generation == 1


async def test_what_was_published_here_is_on_this_disk(random_run: Run, tmp_path: Path) -> None:
    """Law: a publish leaves its blob on the disk, and its record once the feed named it: a restart needs no store."""
    backend, cache = await filled(random_run), tmp_path / "cache"
    body = dyed(random_run, DOMAIN, 0.3)
    async with opened(random_run, on=backend, cache=cache) as core:
        await core.publish(DOMAIN, body)
        core.replica.watcher.notice([f"domain/{DOMAIN}"])
        await core.replica.watcher.settled()
    backend.away = True
    async with opened(random_run, on=backend, cache=cache) as core:
        assert (await core.score(DOMAIN, strict=True)).served.revision == digest(body)


async def test_the_disks_copy_never_takes_back_a_publish(random_run: Run, tmp_path: Path) -> None:
    """Law: while the store is away a record from the disk that is older than the applied one is not taken."""
    async with opened(random_run, cache=tmp_path / "cache") as core:
        await core.put_live(DOMAIN, core.dye(DOMAIN, 0.1))
        await core.score(DOMAIN)
        published = await core.publish(DOMAIN, core.dye(DOMAIN, 0.5))
        core.backend.away = True
        with pytest.raises(StoreUnavailable):
            await core.replica.loader.refresh(DOMAIN)
        assert published.generation is not None
        with pytest.raises(StoreError):
            await core.replica.loader.reach(DOMAIN, published.generation + 1)
        result = await core.score(DOMAIN, strict=True)
        assert (result.served.revision, result.served.generation) == (published.revision, published.generation)


async def test_a_replica_whose_disk_is_empty_needs_the_store(random_run: Run, tmp_path: Path) -> None:
    """Law: the cache may be deleted at any time: with the store it starts, without either it says so."""
    backend = await filled(random_run)
    async with opened(random_run, on=backend, cache=tmp_path / "one") as core:
        await core.put_live(DOMAIN)
        assert (await core.score(DOMAIN)).served.fallback is None
    backend.away = True
    with pytest.raises(StoreUnavailable):
        async with opened(random_run, on=backend, cache=tmp_path / "two"):
            pass


async def test_staging_fetches_to_the_disk_what_is_not_in_memory(random_run: Run, tmp_path: Path) -> None:
    """Law: revisions of domains that nobody asked for here are on the disk once staged, and flip without the store."""
    backend, cache = await filled(random_run), tmp_path / "cache"
    async with opened(random_run, on=backend, cache=cache) as core:
        named = {domain: await core.store.put(core.dye(domain, 0.5)) for domain in THEMES}
        release = await core.store.put_release(Release(divisions={"theme": named}))
        await core.put_live(DOMAIN)
        await core.score(DOMAIN)
        await core.store.stage(release, "test")
        await core.replica.staging.follow()
        await core.replica.staging.settled()
        assert core.ledger.stagings[-1] == (release, 4, 4)
        assert core.replica.slots.staged() == [DOMAIN]
        await core.store.flip(release, "test", min_staged=0)
        await core.replica.releases.follow()
        await core.put_live("theme-9", core.renamed(DOMAIN, "theme-9"))
        core.backend.reads.clear()
        for domain in THEMES:
            assert (await core.score(domain, strict=True)).served.revision == named[domain]
        assert not [what for what in core.backend.reads if what in named.values()]


async def test_the_watcher_outlives_a_store_that_comes_back(random_run: Run, tmp_path: Path) -> None:
    """Law: a replica that started without its store follows what changed meanwhile once the store is back."""
    backend, cache = await filled(random_run), tmp_path / "cache"
    async with opened(random_run, on=backend, cache=cache) as core:
        await core.put_live(DOMAIN, core.dye(DOMAIN, 0.1))
        await core.score(DOMAIN)
    newer = await core.put_live(DOMAIN, core.dye(DOMAIN, 0.6))
    backend.away = True
    async with opened(random_run, on=backend, cache=cache) as core:
        await core.replica.start()
        assert (await core.score(DOMAIN, strict=True)).served.generation == newer.generation - 1
        backend.away = False
        await turns_until(lambda: core.replica.domains.generation(DOMAIN) == newer.generation)


def dyed(run: Run, domain: str, intercept: float) -> bytes:
    """A revision told apart by its calibration."""

    def edit(tensors: dict[str, Any], manifest: dict[str, Any]) -> None:
        manifest["calibration"] = {"slope": 1.0, "intercept": intercept}

    body = (run.folder / "adapters" / f"{domain}.safetensors").read_bytes()
    return forge(body, edit, run.oracle, run.auxiliaries(), run.fusion())
