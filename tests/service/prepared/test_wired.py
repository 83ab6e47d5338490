"""Laws of prepared blobs in a replica: a restart uses them; they are off without a disk cache or by their setting."""

from __future__ import annotations

from pathlib import Path

from benchmarks.forge import Run, digest
from tests.service.core import assert_scores, filled, opened
from tests.service.prepared.rig import DOMAIN, files


async def test_a_restart_prepares_what_was_kept(random_run: Run, tmp_path: Path) -> None:
    """Law: a domain that was loaded before the restart is not verified again, and scores the same."""
    backend = await filled(random_run)
    async with opened(random_run, on=backend, cache=tmp_path / "cache") as core:
        await core.put_live(DOMAIN)
        before = (await core.score(DOMAIN, strict=True)).scores
        await core.replica.settled()
        assert core.ledger.blobs == {"absent": 1, "kept": 1}
    async with opened(random_run, on=backend, cache=tmp_path / "cache") as core:
        result = await core.score(DOMAIN, strict=True)
        assert core.ledger.blobs == {"used": 1}
        assert result.served.revision == digest(core.body(DOMAIN))
        assert result.scores.tobytes() == before.tobytes()
        assert_scores(result, core.expected(DOMAIN, core.body(DOMAIN)))


async def test_prepared_blobs_are_off_without_a_disk_cache_or_by_their_setting(random_run: Run, tmp_path: Path) -> None:
    """Law: off, nothing is looked for, kept or counted; the artifacts' own cache goes on."""
    async with opened(random_run, cache=tmp_path / "cache", prepared=False) as core:
        await core.put_live(DOMAIN)
        await core.score(DOMAIN, strict=True)
        assert digest(core.body(DOMAIN)) in {path.name for path in files(tmp_path / "cache")}
        assert not core.ledger.blobs
    async with opened(random_run) as core:
        await core.put_live(DOMAIN)
        await core.score(DOMAIN, strict=True)
        assert not core.ledger.blobs
