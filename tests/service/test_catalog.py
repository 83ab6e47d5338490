"""Laws of reading: what the store records, and how this replica serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from adapters_store.backend import Versioned
from adapters_store.errors import BlobMissing, DomainUnknown
from benchmarks.forge import Run, digest
from tests.service.core import Core, opened

DOMAIN = "theme-1"


@pytest.fixture
async def core(random_run: Run) -> AsyncIterator[Core]:
    async with opened(random_run) as opened_core:
        yield opened_core


async def test_state_tells_what_serves_here_and_what_was_refused(core: Core) -> None:
    """A domain's state is its record, the resident slot and the refusal, also with the store away."""
    publisher = core.replica.publisher
    published = await core.publish(DOMAIN)
    state = await publisher.state(DOMAIN)
    assert state.resident is not None
    assert (state.division, state.resident.revision, state.rejection) == ("theme", published.revision, None)
    assert state.resident.size_bytes > 0
    core.backend.away = True
    assert (await publisher.state(DOMAIN)).record == state.record
    core.backend.away = False
    listed = await publisher.state("theme-2")
    assert (listed.division, listed.record, listed.resident) == ("theme", None, None)
    with pytest.raises(DomainUnknown):
        await publisher.state("nobody")


async def test_records_and_manifests_are_listed(core: Core) -> None:
    """Domains come in order; a manifest is given of this domain's revisions only."""
    publisher = core.replica.publisher
    for domain in ("theme-2", "theme-1", "segment-a"):
        published = await core.publish(domain)
    assert [record.domain for record in await publisher.records()] == ["segment-a", "theme-1", "theme-2"]
    assert [record.domain for record in await publisher.records(after="segment-a", limit=1)] == ["theme-1"]
    assert (await publisher.manifest("segment-a", published.revision)).division == "segment"
    with pytest.raises(BlobMissing, match="of domain 'segment-a'"):
        await publisher.manifest("theme-1", published.revision)
    bundle = core.replica.backbone_revision
    with pytest.raises(BlobMissing, match="no adapter"):
        await publisher.manifest("theme-1", bundle)


async def test_one_unreadable_record_hides_no_other(core: Core) -> None:
    """Law: a listing names every domain with what serves it; one that cannot be read says why, here and alone."""
    for domain in ("theme-1", "theme-2"):
        await core.publish(domain)
    held = await core.backend.read_record("domain/theme-1")
    assert held is not None
    core.backend.restore("domain/theme-1", Versioned({**held.record, "schema": 99}, "newer"))
    listed = await core.replica.publisher.listing()
    assert [(one.domain, one.record is None, one.live) for one in listed] == [
        ("theme-1", True, None),
        ("theme-2", False, digest(core.body("theme-2"))),
    ]
    assert "schema 99" in (listed[0].fault or "")
    assert [record.domain for record in await core.replica.publisher.records()] == ["theme-2"]
    state = await core.replica.publisher.state("theme-1")
    assert "schema 99" in (state.fault or "")
    assert state.resident is not None
    assert (await core.score("theme-1", strict=True)).served.revision == digest(core.body("theme-1"))
