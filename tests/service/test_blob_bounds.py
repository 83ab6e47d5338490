"""Laws of how much a replica reads of what the store has under a digest."""

from __future__ import annotations

import pytest

from adapters_store.backbone import MANIFEST_BOUND, file_bound, read_bundle
from adapters_store.bounds import Bound
from adapters_store.errors import BlobMissing
from adapters_store.releases import RELEASE_BOUND, Release
from adapters_store.tensors import TensorLimits
from benchmarks.forge import Run, digest
from tests.service.clockwork import ManualClock
from tests.service.core import opened

DOMAIN = "theme-1"
ADAPTERS = Bound(TensorLimits().bytes, "setting max_adapter_bytes")


async def test_a_replica_reads_no_blob_without_the_bound_of_its_kind(random_run: Run) -> None:
    """Law: adapters, pins and fusions are held to a setting, a bundle's files to its manifest, others to a format."""
    bundle = read_bundle(random_run.folder / "bundle")
    async with opened(random_run) as core:
        live, canary = core.dye(DOMAIN, 0.1), core.dye(DOMAIN, 0.9)
        record = await core.put_live(DOMAIN, live)
        await core.score(DOMAIN, strict=True)
        await core.replica.publisher.set_alias(DOMAIN, "canary", await core.store.put(canary), 5.0, by="test")
        pins = (await core.replica.publisher.manifest(DOMAIN, digest(live))).fuses.values()
        release = await core.store.put_release(Release(divisions={"theme": {DOMAIN: digest(live)}}))
        await core.store.flip(release, "test", min_staged=0)
        await core.replica.releases.follow()
        found = core.backend.bounds
    assert record.live is not None
    fusion = digest((random_run.folder / "fusion.safetensors").read_bytes())
    expected = dict.fromkeys([record.live.revision, digest(canary), fusion, *pins], ADAPTERS)
    expected |= {bundle.revision: MANIFEST_BOUND, release: RELEASE_BOUND}
    expected |= {entry.sha256: file_bound(entry) for entry in bundle.manifest.files}
    assert found == expected


async def test_a_huge_object_in_the_place_of_an_adapter_is_refused_unread(random_run: Run) -> None:
    """Law: a store that serves more than max_adapter_bytes for a digest costs that domain its adapter, and says so.

    The other domains are scored as before.
    """
    clock = ManualClock()
    async with opened(random_run, clock, adapter_bytes=1 << 20) as core:
        body = core.dye(DOMAIN, 0.1)
        await core.backend.put_blob(digest(body), bytes((1 << 20) + 1))
        await core.put_live(DOMAIN, body)
        await core.put_live("theme-2")
        for _ in range(3):
            assert (await core.score(DOMAIN)).served.fallback == "adapter_rejected"
            await clock.advance(10.0)
        reads = core.backend.reads[digest(body)]
        state = await core.replica.publisher.state(DOMAIN)
        with pytest.raises(BlobMissing, match="setting max_adapter_bytes"):
            await core.replica.publisher.manifest(DOMAIN, digest(body))
        assert (await core.score("theme-2", strict=True)).served.fallback is None
    assert reads == 1
    assert state.rejection is not None
    assert state.rejection.reason == (
        f"blob {digest(body)} is larger than the {1 << 20} bytes that setting max_adapter_bytes allows"
    )
