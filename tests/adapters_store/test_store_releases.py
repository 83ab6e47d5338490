"""Fleet releases through the store: what is effective, staging, flips, rollbacks, conditions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters_store.canonical import digest
from adapters_store.errors import (
    BlobMissing,
    DomainUnknown,
    Frozen,
    MalformedArtifact,
    NothingToRollBack,
    NotStaged,
    RecordConflict,
    WrongDomain,
)
from adapters_store.memory import MemoryBackend
from adapters_store.records import Condition, DomainRecord, Live, ReleasePointer, ReplicaReport
from adapters_store.releases import Release, effective, parse_release
from adapters_store.store import AdapterStore


class Clock:
    """Time that stands until it is moved."""

    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock."""
    return Clock()


@pytest.fixture
def store(clock: Clock) -> AdapterStore:
    """An empty store."""
    return AdapterStore(MemoryBackend(), clock)


async def revisions(store: AdapterStore, count: int) -> list[str]:
    return [await store.put(f"artifact {i}".encode()) for i in range(count)]


async def release_of(store: AdapterStore, division: str = "theme", **domains: str) -> str:
    return await store.put_release(Release(divisions={division: domains}))


async def serving(store: AdapterStore, domain: str) -> str | None:
    pointer = await store.pointer()
    release = None if pointer.release is None else await store.release(pointer.release)
    return effective(await store.domain(domain), pointer, release, domain)


def test_effective_live_is_what_the_design_says() -> None:
    """Law: the record's own if epoch >= since or the release lacks the domain, else the release's; tombstones too."""
    own, given_ = "a" * 64, "b" * 64
    release = Release(divisions={"theme": {"t": given_}})
    pointer = ReleasePointer(generation=5, release="c" * 64, since=3)

    def record(epoch: int, live: str | None = own) -> DomainRecord:
        held = Live(revision=live) if live else None
        return DomainRecord(domain="t", division="theme", generation=1, epoch=epoch, live=held, deleted=not live)

    assert effective(record(2), pointer, release, "t") == given_
    assert effective(record(3), pointer, release, "t") == own
    assert effective(record(2, None), pointer, release, "t") == given_
    assert effective(record(3, None), pointer, release, "t") is None
    assert effective(None, pointer, release, "t") == given_
    assert effective(record(2), pointer, Release(), "t") == own
    assert effective(record(0), ReleasePointer(), None, "t") == own
    assert effective(None, ReleasePointer(), None, "t") is None


async def test_flip_publish_and_roll_back(store: AdapterStore) -> None:
    """Law: a flip goes above all domains, a later publish above the flip, and a rollback brings back what was there."""
    a, b, c, d = await revisions(store, 4)
    await store.set_live("t", "theme", a, "me")
    first = await release_of(store, t=b, u=b)
    pointer = await store.flip(first, "me", min_staged=0)
    assert (pointer.generation, pointer.since, pointer.release) == (1, 1, first)
    assert [await serving(store, one) for one in ("t", "u", "v")] == [b, b, None]
    record = await store.set_live("t", "theme", c, "me")
    assert (record.epoch, await serving(store, "t")) == (1, c)
    assert [entry.revision for entry in record.previous] == [b, a]
    second = await release_of(store, t=d)
    await store.flip(second, "me", min_staged=0)
    assert [await serving(store, one) for one in ("t", "u")] == [d, None]
    assert await store.flip(second, "me") == await store.pointer()
    back = await store.roll_back_release(second, "me")
    assert (back.generation, back.since, back.release) == (3, 1, first)
    assert [await serving(store, one) for one in ("t", "u")] == [c, b]
    with pytest.raises(RecordConflict, match="the live one is"):
        await store.roll_back_release(second, "me")
    last = await store.roll_back_release(first, "me")
    assert (last.release, last.since, last.parent) == (None, 0, None)
    assert [await serving(store, one) for one in ("t", "u")] == [c, None]
    with pytest.raises(RecordConflict, match="the live one is none"):
        await store.roll_back_release(first, "me")
    again = await store.flip(first, "me", min_staged=0)
    assert await serving(store, "t") == b
    assert again.parent is not None


async def test_domain_is_rolled_back_from_what_its_release_gave_it(store: AdapterStore) -> None:
    """Law: from_ is the effective live; behind a release's revision comes the record's own, then its history."""
    a, b, c = await revisions(store, 3)
    await store.set_live("t", "theme", a, "me")
    await store.set_live("t", "theme", b, "me")
    release = await release_of(store, t=c, u=c)
    await store.flip(release, "me", min_staged=0)
    with pytest.raises(RecordConflict, match=f"the live revision is {c}"):
        await store.rollback("t", b, "me")
    record = await store.rollback("t", c, "me")
    assert (await serving(store, "t"), record.epoch) == (b, 1)
    assert [(entry.revision, entry.rolled_back) for entry in record.previous] == [(c, True), (a, False)]
    await store.rollback("t", b, "me")
    assert await serving(store, "t") == a
    with pytest.raises(NothingToRollBack):
        await store.rollback("t", a, "me")
    with pytest.raises(NothingToRollBack):
        await store.rollback("u", c, "me")
    with pytest.raises(DomainUnknown):
        await store.rollback("v", c, "me")


async def test_domain_of_a_release_is_deleted_and_comes_back(store: AdapterStore) -> None:
    """Law: a tombstone stands above the release it was written under, and below the next."""
    a, b = await revisions(store, 2)
    await store.flip(await release_of(store, t=a), "me", min_staged=0)
    tombstone = await store.delete("t", "me")
    assert (tombstone.deleted, tombstone.epoch, await serving(store, "t")) == (True, 1, None)
    assert await store.delete("t", "you") == tombstone
    await store.flip(await release_of(store, t=b), "me", min_staged=0)
    assert await serving(store, "t") == b
    assert (await store.delete("t", "me")).generation == tombstone.generation + 1
    assert await serving(store, "t") is None
    assert (await store.set_live("t", "gender", a, "me")).division == "gender"


async def test_what_a_release_serves_already_is_unchanged(store: AdapterStore) -> None:
    """Law: publishing what is effectively live writes nothing and looks at no condition; hidden it is made live."""
    a, b = await revisions(store, 2)
    held = await store.set_live("t", "theme", a, "me")
    await store.flip(await release_of(store, t=b), "me", min_staged=0)
    assert await store.set_live("t", "theme", b, "me", if_generation=77, create_only=True) == held
    with pytest.raises(RecordConflict, match=f"already serves {b}"):
        await store.set_live("t", "theme", a, "me", create_only=True)
    with pytest.raises(WrongDomain, match="of division 'theme', not 'gender'"):
        await store.set_live("t", "gender", a, "me")
    again = await store.set_live("t", "theme", a, "me")
    assert (again.generation, again.epoch, await serving(store, "t")) == (2, 1, a)


async def test_condition_names_record_and_pointer(store: AdapterStore) -> None:
    """Law: with an ETag of both generations a change happens at both or not at all."""
    a, b, c = await revisions(store, 3)
    await store.set_live("t", "theme", a, "me", if_generation=Condition(0, 0))
    await store.flip(await release_of(store, u=b), "me", min_staged=0)
    with pytest.raises(RecordConflict, match="release pointer has generation 1, not 0"):
        await store.set_live("t", "theme", c, "me", if_generation=Condition(1, 0))
    with pytest.raises(RecordConflict, match="has generation 1, not 2"):
        await store.set_live("t", "theme", c, "me", if_generation=Condition(2, 1))
    assert (await store.set_live("t", "theme", c, "me", if_generation=Condition(1, 1))).generation == 2
    assert (await store.set_live("t", "theme", b, "me", if_generation=Condition(2))).generation == 3


async def test_flip_asks_whether_replicas_are_ready(store: AdapterStore, clock: Clock) -> None:
    """Law: a release is flipped to once every replica that still reports has prepared min_staged of it."""
    (a,) = await revisions(store, 1)
    release = await release_of(store, t=a)
    with pytest.raises(NotStaged, match="is not staged: stage it first"):
        await store.flip(release, "me")
    assert (await store.stage(release, "me")).release == release
    with pytest.raises(NotStaged, match="no replica says"):
        await store.flip(release, "me")
    await store.report_replica(ReplicaReport(replica="r-1", release=release, staged=200, of=200))
    await store.report_replica(ReplicaReport(replica="r-2", release=release, staged=190, of=200))
    with pytest.raises(NotStaged, match=r"replica r-2 has prepared 95.0% of release .*, less than 99.0%"):
        await store.flip(release, "me")
    await store.report_replica(ReplicaReport(replica="r-2", release=None, staged=200, of=200))
    with pytest.raises(NotStaged, match=r"r-2 has prepared 0\.0%"):
        await store.flip(release, "me", min_staged=0.5)
    await store.report_replica(ReplicaReport(replica="r-2", release=release, staged=0, of=0))  # not read yet
    with pytest.raises(NotStaged, match=r"r-2 has prepared 0\.0%"):
        await store.flip(release, "me", min_staged=0.5)
    clock.now += 89
    await store.report_replica(ReplicaReport(replica="r-1", release=release, staged=199, of=200))
    with pytest.raises(NotStaged, match="r-2"):
        await store.flip(release, "me")
    clock.now += 1
    assert [report.replica for report in await store.replica_reports()] == ["r-1"]
    assert (await store.flip(release, "me")).release == release


async def test_a_replica_that_withdraws_holds_no_flip_up(store: AdapterStore) -> None:
    """Law: a replica that takes its report back is not waited for; taking back what is not there is no fault."""
    (a,) = await revisions(store, 1)
    release = await release_of(store, t=a)
    await store.stage(release, "me")
    await store.report_replica(ReplicaReport(replica="stays", release=release, staged=1, of=1))
    await store.report_replica(ReplicaReport(replica="stops"))
    with pytest.raises(NotStaged, match="stops"):
        await store.flip(release, "me")
    for _ in range(2):
        await store.withdraw_replica("stops")
    assert [report.replica for report in await store.replica_reports()] == ["stays"]
    assert (await store.flip(release, "me")).release == release


async def test_release_of_absent_revisions_cannot_be_staged(store: AdapterStore) -> None:
    """Law: no release goes live whose adapters are not there."""
    release = await release_of(store, t="0" * 64)
    with pytest.raises(BlobMissing, match="1 revisions of the release are not in the store"):
        await store.stage(release, "me")
    for _ in range(2):
        with pytest.raises(BlobMissing, match="are not in the store"):
            await store.flip(release, "me", min_staged=0)
    with pytest.raises(BlobMissing):
        await store.stage("1" * 64, "me")
    with pytest.raises(MalformedArtifact, match="a release"):
        await store.stage(await store.put(b"no release"), "me")
    assert (await store.stage(None, "me")).release is None
    assert (await store.pointer()).generation == 0


async def test_release_that_was_collected_can_be_neither_staged_nor_returned_to(store: AdapterStore) -> None:
    """Law: no record comes to name a release that is gone, though this client holds its manifest still."""
    first, second = await revisions(store, 2)
    old, new = await release_of(store, a=first), await release_of(store, a=second)
    for release in (old, new):
        await store.flip(release, "me", min_staged=0)
    staged, pointer = await store.staged(), await store.pointer()
    await store.backend.delete_blob(old)
    with pytest.raises(BlobMissing, match=f"release {old} is not in the store"):
        await store.stage(old, "me")
    with pytest.raises(BlobMissing, match=f"{old}, is not in the store any more"):
        await store.roll_back_release(new, "me")
    assert (await store.staged(), await store.pointer()) == (staged, pointer)


async def test_frozen_fleet_can_only_go_back(store: AdapterStore) -> None:
    """Law: while all is frozen releases are neither staged nor flipped to; rolling back and thawing work."""
    (a,) = await revisions(store, 1)
    first, second = await release_of(store, t=a), await release_of(store, u=a)
    await store.flip(first, "me", min_staged=0)
    await store.freeze(None, "ops", "incident 7")
    for change in (store.stage(second, "me"), store.flip(second, "me", min_staged=0)):
        with pytest.raises(Frozen, match=r"all changes are stopped by ops since 2023-11-14T.*: incident 7"):
            await change
    assert (await store.roll_back_release(first, "me")).release is None
    await store.thaw(None, "ops")
    assert (await store.flip(second, "me", min_staged=0)).release == second


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
REVISION = st.binary(max_size=4).map(digest)


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, REVISION, max_size=4), max_size=3))
def test_release_reads_back_and_names_each_domain_once(divisions: dict[str, dict[str, str]]) -> None:
    """Law: a release of disjoint divisions survives storage in one byte form; a domain that stands twice is refused."""
    domains = [domain for found in divisions.values() for domain in found]
    if len(set(domains)) < len(domains):
        with pytest.raises(ValueError, match="stands in"):
            Release(divisions=divisions)
        return
    release = Release(divisions=divisions)
    read = parse_release(release.encoded())
    assert read == release
    assert read.encoded() == release.encoded()
    assert set(read.domains()) == set(domains)
    assert len(read) == len(domains)
    for division, found in divisions.items():
        for domain, revision in found.items():
            assert (read.division_of(domain), read.revision_of(domain)) == (division, revision)
    assert read.revision_of("-") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "a release"),
        (b"[]", "a release"),
        (b'{"schema":2}', "schema 2 is newer than 1"),
        (b'{"divisions":{"d":{"t":"short"}}}', "is no revision"),
        (b'{"divisions":{"d":{"a/b":"' + b"0" * 64 + b'"}}}', "is no domain id"),
        (b'{"kind":"fusion"}', "kind"),
        (b'{"divisions":{"d":{"t":"' + b"0" * 64 + b'"},"e":{"t":"' + b"0" * 64 + b'"}}}', "'t' stands in 'd' and 'e'"),
    ],
)
def test_blob_that_is_no_release_is_named(content: bytes, message: str) -> None:
    """Law: nonsense, newer schemas and ambiguous domains are refused by name."""
    with pytest.raises(MalformedArtifact, match=message):
        parse_release(content)
