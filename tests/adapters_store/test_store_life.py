"""Canary, shadow, freezing, switches, features, bulk reads and mixed builds through the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters_store.canonical import digest
from adapters_store.errors import (
    BadId,
    BlobMissing,
    DigestMismatch,
    DomainUnknown,
    Frozen,
    NewerSchema,
    NothingToRollBack,
    RecordConflict,
)
from adapters_store.file import FileBackend
from adapters_store.memory import MemoryBackend
from adapters_store.records import ReplicaReport
from adapters_store.releases import Release
from adapters_store.store import AdapterStore


@pytest.fixture
def backend() -> MemoryBackend:
    """An empty store's backend."""
    return MemoryBackend()


@pytest.fixture
def store(backend: MemoryBackend) -> AdapterStore:
    """An empty store."""
    return AdapterStore(backend, lambda: 1_700_000_000.0)


async def revisions(store: AdapterStore, count: int) -> list[str]:
    return [await store.put(f"artifact {i}".encode()) for i in range(count)]


async def test_canary_keeps_its_salt_while_percent_moves(store: AdapterStore) -> None:
    """Law: who is in stays in while percent grows; another revision draws anew; what is so already is unchanged."""
    a, b, c = await revisions(store, 3)
    await store.set_live("t", "theme", a, "me")
    five = (await store.set_canary("t", b, 5.0, "me")).canary
    ten_record = await store.set_canary("t", b, 10.0, "me")
    ten = ten_record.canary
    assert five is not None
    assert ten is not None
    assert (ten.salt, ten.percent, ten.revision) == (five.salt, 10.0, b)
    assert len(five.salt) >= 32
    assert await store.set_canary("t", b, 10.0, "you") == ten_record
    other = (await store.set_canary("t", c, 10.0, "me")).canary
    assert other is not None
    assert other.salt != five.salt
    assert (await store.clear_canary("t", "me")).canary is None
    assert (await store.clear_canary("t", "me")).generation == 5


async def test_shadow_stands_beside_and_what_goes_live_ends_it(store: AdapterStore) -> None:
    """Law: publishing the canary's or shadow's revision ends it, of another leaves it, deleting ends both."""
    a, b, c = await revisions(store, 3)
    await store.set_live("t", "theme", a, "me")
    await store.set_canary("t", b, 5.0, "me")
    await store.set_shadow("t", b, 50.0, "me")
    record = await store.set_live("t", "theme", c, "me")
    assert record.canary is not None
    assert record.shadow is not None
    record = await store.set_live("t", "theme", b, "me")
    assert (record.canary, record.shadow) == (None, None)
    await store.set_shadow("t", c, 50.0, "me")
    assert (await store.clear_shadow("t", "me")).shadow is None
    await store.set_shadow("t", c, 50.0, "me")
    record = await store.delete("t", "me")
    assert (record.canary, record.shadow, record.live) == (None, None, None)


async def test_alias_that_makes_no_sense_is_refused(store: AdapterStore) -> None:
    """Law: an alias needs a domain that serves another revision, its bytes, a percentage and its condition."""
    a, b = await revisions(store, 2)
    for set_alias in (store.set_canary, store.set_shadow):
        with pytest.raises(DomainUnknown):
            await set_alias("unknown", a, 5.0, "me")
    await store.set_live("t", "theme", a, "me")
    for set_alias in (store.set_canary, store.set_shadow):
        with pytest.raises(RecordConflict, match="is live in domain 't'"):
            await set_alias("t", a, 5.0, "me")
        with pytest.raises(BlobMissing):
            await set_alias("t", "0" * 64, 5.0, "me")
        with pytest.raises(RecordConflict, match="has generation 1, not 7"):
            await set_alias("t", b, 5.0, "me", 7)
        with pytest.raises(BadId):
            await set_alias("t", "x", 5.0, "me")
        for percent in (0.0, -1.0, 100.5, float("nan")):
            with pytest.raises(BadId, match="is no percentage of a"):
                await set_alias("t", b, percent, "me")
    await store.delete("t", "me")
    with pytest.raises(RecordConflict, match="serves nothing"):
        await store.set_canary("t", b, 5.0, "me")


async def test_canary_may_stand_beside_what_a_release_gave(store: AdapterStore) -> None:
    """Law: aliases look at the effective live; a domain without a record of its own begins one."""
    a, b = await revisions(store, 2)
    await store.flip(await store.put_release(Release(divisions={"theme": {"t": a}})), "me", min_staged=0)
    record = await store.set_canary("t", b, 5.0, "me")
    assert (record.division, record.live, record.generation) == ("theme", None, 1)
    assert record.epoch == 0  # no change of live: the release still serves
    with pytest.raises(RecordConflict, match="is live"):
        await store.set_shadow("t", a, 5.0, "me")


async def test_frozen_domain_refuses_all_but_the_way_back(store: AdapterStore) -> None:
    """Law: while frozen nothing is published, canaried or shadowed; rollback, delete and thaw work, others go on."""
    a, b, c = await revisions(store, 3)
    for revision in (a, b):
        await store.set_live("t", "theme", revision, "me")
    await store.set_live("u", "theme", a, "me")
    await store.freeze("t", "ops", "incident 7")
    for change in (
        store.set_live("t", "theme", c, "me"),
        store.set_canary("t", c, 5.0, "me"),
        store.set_shadow("t", c, 5.0, "me"),
    ):
        with pytest.raises(Frozen, match=r"changes of domain 't' are stopped by ops since 2023.*: incident 7"):
            await change
    assert (await store.set_live("t", "theme", b, "me")).generation == 3  # serves already: no change
    await store.set_live("u", "theme", c, "me")
    assert (await store.rollback("t", b, "me")).generation == 4
    await store.delete("t", "me")
    await store.thaw("t", "ops")
    assert (await store.set_live("t", "theme", c, "me")).frozen is None
    with pytest.raises(DomainUnknown):
        await store.freeze("unknown", "ops", "why")


async def test_switches_are_one_record(store: AdapterStore) -> None:
    """Law: freezing all and serving by the backbone are told apart; repeating changes nothing."""
    assert (await store.switches()).generation == 0
    assert (await store.switch_backbone_only(True, "ops")).adapters_only_backbone
    assert (await store.switch_backbone_only(True, "ops")).generation == 1
    await store.freeze(None, "ops", "incident 7")
    held = await store.switches()
    assert held.frozen is not None
    assert (held.adapters_only_backbone, held.frozen.by, held.frozen.reason) == (True, "ops", "incident 7")
    await store.thaw(None, "ops")
    assert (await store.switches()).frozen is None


async def test_frozen_fleet_keeps_its_default_backbone(store: AdapterStore) -> None:
    """Law: freezing all stops the default backbone too; naming it once more changes nothing and is no fault."""
    a, b = await revisions(store, 2)
    first = await store.set_default_backbone(a)
    await store.freeze(None, "ops", "incident 7")
    assert await store.set_default_backbone(a) == first
    with pytest.raises(Frozen, match="incident 7"):
        await store.set_default_backbone(b)
    assert await store.backbone_record() == first


async def test_feature_layers_follow_their_parents(store: AdapterStore) -> None:
    """Law: a layer goes on top of the one it names as its parent, or not at all; repeating it changes nothing."""
    a, b = await revisions(store, 2)
    fingerprint = "f" * 64
    first = await store.set_features(fingerprint, "users", a, None, "me")
    assert (first.revision, first.generation) == (a, 1)
    assert await store.set_features(fingerprint, "users", a, None, "me") == first
    with pytest.raises(RecordConflict, match=f"the newest feature table is {a}, not that of the bundle"):
        await store.set_features(fingerprint, "users", b, None, "me")
    second = await store.set_features(fingerprint, "users", b, a, "me")
    assert (second.revision, second.previous) == (b, [a])
    assert (await store.feature_record(fingerprint, "items")).revision is None
    with pytest.raises(BlobMissing):
        await store.set_features(fingerprint, "items", "0" * 64, None, "me")


async def test_what_replicas_follow_is_listed_with_versions(store: AdapterStore) -> None:
    """Law: versions and changes speak of domains, backbone, release, staged, switches and features in store keys."""
    a, b = await revisions(store, 2)
    release = await store.put_release(Release(divisions={"theme": {"u": a}}))
    began = await store.changes(None, 0.0)
    await store.set_live("t", "theme", a, "me")
    await store.flip(release, "me", min_staged=0)
    await store.switch_backbone_only(False, "me")
    await store.freeze(None, "me", "why")
    await store.thaw(None, "me")
    await store.set_features("f" * 64, "users", b, None, "me")
    await store.set_default_backbone(a)
    await store.write_prewarm(["t"])
    await store.report_replica(ReplicaReport(replica="r"))
    followed = {"domain/t", "release", "staged", "switches", "backbone", f"features/{'f' * 64}:users"}
    versions = await store.versions()
    assert set(versions) == followed
    stamped = await store.stamped_domain("t")
    assert stamped is not None
    assert stamped.version == versions["domain/t"]
    assert followed <= (await store.changes(began.position, 0.0)).keys


async def test_one_unreadable_record_hides_no_other(store: AdapterStore, backend: MemoryBackend) -> None:
    """Law: reading many domains gives those that can be read, and what is wrong with the others."""
    (a,) = await revisions(store, 1)
    await store.set_live("t", "theme", a, "me")
    await backend.compare_and_set("domain/bad", 0, {"generation": 1})
    await backend.compare_and_set("domain/new", 0, {"generation": 1, "schema": 9})
    found, faults = await store.stamped_domains(["t", "bad", "new", "absent"])
    assert set(found) == {"t"}
    assert found["t"].record == await store.domain("t")
    assert set(faults) == {"bad", "new"}
    assert "schema 9, newer than 1" in faults["new"]


async def test_file_that_is_no_json_hides_no_other_record(tmp_path: Path) -> None:
    """Law: the same where the backend itself cannot read a record."""
    store = AdapterStore(FileBackend(tmp_path, create=True), lambda: 0.0)
    await store.set_live("t", "theme", await store.put(b"x"), "me")
    (tmp_path / "records" / "domain%2Fbad.json").write_bytes(b"{")
    found, faults = await store.stamped_domains(["bad", "t"])
    assert set(found) == {"t"}
    assert "domain/bad" in faults["bad"]


async def test_newer_schema_is_refused_by_name_and_never_written_over(
    store: AdapterStore, backend: MemoryBackend
) -> None:
    """Law: a record in a newer form is neither read nor changed; the message names key and schemas."""
    (a,) = await revisions(store, 1)
    newer = {"generation": 3, "schema": 2, "domain": "t", "division": "theme"}
    for key in ("domain/t", "release", "switches", "backbone"):
        await backend.compare_and_set(key, 0, newer)
    for call in (
        lambda: store.domain("t"),
        lambda: store.set_live("t", "theme", a, "me"),
        lambda: store.delete("t", "me"),
        lambda: store.pointer(),
        lambda: store.set_live("u", "theme", a, "me"),
        lambda: store.switches(),
        lambda: store.set_default_backbone(a),
    ):
        with pytest.raises(NewerSchema, match=r"record '[a-z/]+' has schema 2, newer than 1"):
            await call()
    assert await backend.versions("domain/u") == {}


async def test_older_build_keeps_what_a_newer_one_stored(store: AdapterStore, backend: MemoryBackend) -> None:
    """Law: every change of an older build keeps unknown keys, at the top and inside live, canary, history and marks."""
    a, b, c = await revisions(store, 3)
    await store.set_live("t", "theme", a, "me")
    await store.set_live("t", "theme", b, "me")
    await store.set_canary("t", c, 5.0, "me")
    held = await backend.read_record("domain/t")
    assert held is not None
    record = held.record | {"generation": 4, "novel": {"x": 1}}
    record["live"]["note"] = "live"
    record["canary"]["note"] = "canary"
    record["previous"][0]["note"] = "history"
    assert await backend.compare_and_set("domain/t", 3, record)
    await store.set_canary("t", c, 6.0, "me")
    await store.freeze("t", "me", "why")
    await store.thaw("t", "me")
    await store.rollback("t", b, "me")
    after = await backend.read_record("domain/t")
    assert after is not None
    assert after.record["novel"] == {"x": 1}
    assert after.record["canary"]["note"] == "canary"
    assert (after.record["live"]["revision"], after.record["live"]["note"]) == (a, "history")
    assert (after.record["previous"][0]["revision"], after.record["previous"][0]["note"]) == (b, "live")


async def test_bytes_are_mapped_where_there_are_files(tmp_path: Path, store: AdapterStore) -> None:
    """Law: mapping gives the bytes read-only, checked against their digest, from files or from memory."""
    filed = AdapterStore(FileBackend(tmp_path, create=True), lambda: 0.0)
    large = bytes(range(256)) * 2000
    for one in (filed, store):
        for content in (large, b"", b"small"):
            view = await one.map(await one.put(content))
            assert view == content
            assert view.readonly
        with pytest.raises(BlobMissing):
            await one.map("0" * 64)
        with pytest.raises(BadId):
            await one.map("x")
    path = tmp_path / "blobs" / digest(large)[:2] / digest(large)
    path.write_bytes(large[:-1])
    with pytest.raises(DigestMismatch, match="is damaged"):
        await filed.map(digest(large))


async def test_many_are_put_in_order_and_only_what_is_missing_is_sent(store: AdapterStore) -> None:
    """Law: put_many returns revisions in the order of the bytes, repetitions included; has_many tells what is there."""
    contents = [b"%d" % (i % 400) for i in range(700)]
    assert await store.put_many(iter(contents)) == [digest(content) for content in contents]
    assert len(await store.backend.list_blobs()) == 400
    wanted = [digest(b"3"), digest(b"absent")]
    assert await store.has_many(wanted) == {wanted[0]}
    assert await store.put_many([]) == []


async def test_prewarm_list_is_written_over(store: AdapterStore) -> None:
    """Law: the last writer wins; ids are checked."""
    await store.write_prewarm(["a", "b"], "one")
    held = await store.write_prewarm(["c"], "two")
    assert (held.domains, held.by, held.generation) == (["c"], "two", 2)
    assert await store.prewarm_list() == held
    with pytest.raises(BadId):
        await store.write_prewarm(["a/b"])


async def test_the_default_backbone_goes_back_and_forth(store: AdapterStore) -> None:
    """Law: a roll back makes the bundle before the default again, from the one that was seen, also while frozen."""
    a, b = await revisions(store, 2)
    with pytest.raises(RecordConflict, match="none"):
        await store.roll_back_default(a, "me")
    await store.set_default_backbone(a)
    with pytest.raises(NothingToRollBack, match="the first default"):
        await store.roll_back_default(a, "me")
    await store.set_default_backbone(b)
    await store.freeze(None, "ops", "incident 7")
    back = await store.roll_back_default(b, "me")
    assert (back.default, back.previous, back.generation, back.by) == (a, [b], 3, "me")
    with pytest.raises(RecordConflict, match=a):
        await store.roll_back_default(b, "me")
    assert (await store.roll_back_default(a, "me")).default == b
