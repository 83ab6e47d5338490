"""Object storage keeps the contract, over HTTP; and what it does with servers that do not."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from adapters_store.backend import Backend
from adapters_store.bounds import Bound
from adapters_store.canonical import digest
from adapters_store.errors import BadId, LimitExceeded, MalformedRecord, StoreRefused, StoreUnavailable
from adapters_store.object_urls import parse_object_url
from adapters_store.objects import ObjectBackend, open_objects
from tests.adapters_store.contract import BackendContract, Open, content_of, record
from tests.servers.peculiar_s3 import Peculiar, serve_peculiar_s3
from tests.servers.rclone import serve_rclone
from tests.servers.s3 import S3Server, serve_s3

TIMEOUT_S = 5.0


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Server]:
    """One moto for all tests of this file; each takes a prefix of its own."""
    with serve_s3() as server:
        yield server


@pytest.fixture
def s3(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """moto, with its credentials in the environment."""
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    return moto


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[S3Server, Peculiar]]:
    """A server with peculiarities, none of them on."""
    with serve_peculiar_s3() as (server, peculiar):
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server, peculiar


def opened(server: S3Server, timeout_s: float = TIMEOUT_S) -> ObjectBackend:
    return open_objects(server.url("store"), timeout_s=timeout_s)


class TestObjects(BackendContract):
    """An S3 endpoint over HTTP."""

    @pytest.fixture
    async def open_backend(self, s3: S3Server) -> AsyncIterator[Open]:
        """A new client of one prefix."""
        url = s3.url(f"some/{secrets.token_hex(4)}", poll_s=0.02)
        clients: list[Backend] = []

        def open_it() -> Backend:
            clients.append(open_objects(url, timeout_s=TIMEOUT_S))
            return clients[-1]

        yield open_it
        for client in clients:
            await client.close()


async def test_large_blob_comes_back(s3: S3Server) -> None:
    """Law: a blob that is sent in several parts comes back as it was."""
    content = secrets.token_bytes(1 << 20) * 11
    store = open_objects(s3.url("large"), timeout_s=TIMEOUT_S)
    await store.put_blob(digest(content), content)
    assert digest(await store.get_blob(digest(content))) == digest(content)


async def test_of_many_who_delete_or_change_a_record_one_wins(s3: S3Server) -> None:
    """Law: deleting is as exclusive as writing; where a writer wins, its record stays."""
    store = open_objects(s3.url("deleting"), timeout_s=TIMEOUT_S)
    for i in range(5):
        key = f"replica/{i}"
        assert await store.compare_and_set(key, 0, record(1))
        deleted = [store.delete_record(key, 1) for _ in range(4)]
        *deletions, changed = await asyncio.gather(*deleted, store.compare_and_set(key, 1, record(2, by="writer")))
        assert sum(deletions) + changed == 1
        assert await content_of(store, key) == (record(2, by="writer") if changed else None)


async def test_stores_of_one_bucket_are_apart(s3: S3Server) -> None:
    """Law: prefixes of which one begins like another are two stores, and the whole bucket is a third."""
    short, long = (open_objects(s3.url(prefix), timeout_s=TIMEOUT_S) for prefix in ("team", "team-2"))
    assert await short.compare_and_set("domain/a", 0, record(1))
    assert await long.versions("") == {}
    whole = open_objects(s3.url(""), timeout_s=TIMEOUT_S)
    assert await whole.versions("") == {}
    assert await whole.list_blobs() == []


async def test_one_record_is_found_without_listing_the_others(s3: S3Server) -> None:
    """Law: versions of a prefix that is no folder are those that start with it, whatever sorts around them."""
    store = open_objects(s3.url("around"), timeout_s=TIMEOUT_S)
    keys = ["backbon", "backbone", "backbone-2", "domain/a", "release", "releasf", "replica/a", "replica/b", "staged"]
    for key in keys:
        assert await store.compare_and_set(key, 0, record(1))
    for prefix in ("", "backbone", "rele", "release", "replica/", "replica/a", "z", "b", "domain"):
        assert sorted(await store.versions(prefix)) == [key for key in keys if key.startswith(prefix)], prefix
        assert await store.list_records(prefix, "release") == [
            k for k in keys if k.startswith(prefix) and k > "release"
        ]
    assert await store.list_records("", limit=0) == []
    assert await store.list_records("", after="no//cursor of ours\n", limit=2) == ["release", "releasf"]


async def test_bucket_that_is_not_there_is_unavailable_not_empty(s3: S3Server) -> None:
    """Law: a wrong bucket's name is told; it does not read as an empty store."""
    store = open_objects(f"s3://absent-bucket/x?endpoint={s3.endpoint}", timeout_s=TIMEOUT_S)
    for asked in (store.read_record("domain/a"), store.versions(""), store.prepare_writing()):
        with pytest.raises(StoreUnavailable, match="no such bucket"):
            await asked


async def test_store_that_ignores_conditions_is_refused_for_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: rclone's S3 is refused before the first record is written, with the reason; reading goes on."""
    with serve_rclone(tmp_path / "served") as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        store = opened(server)
        with pytest.raises(StoreRefused, match="ignores If-None-Match"):
            await store.prepare_writing()
        with pytest.raises(StoreRefused, match="ignores If-None-Match"):
            await store.compare_and_set("domain/a", 0, record(1))
        await store.put_blob(digest(b"x"), b"x")
        assert await store.get_blob(digest(b"x")) == b"x"
        assert await store.list_blobs() == [digest(b"x")]
        assert await store.read_record("domain/a") is None
        assert await store.versions("") == {}
        await store.close()
    left = [path for path in (tmp_path / "served").rglob("*") if path.is_file()]
    assert [path.name for path in left] == [digest(b"x")]


@pytest.mark.parametrize(
    ("peculiarity", "reason"),
    [
        ({"ignores": {"If-None-Match"}}, "ignores If-None-Match"),
        ({"ignores": {"If-Match"}}, "ignores If-Match"),
        ({"refuses": True}, "by its own ETag"),
        ({"knows": False}, "501"),
        ({"flips": True}, "read back"),
    ],
)
async def test_probe_names_the_promise_that_a_store_breaks(
    peer: tuple[S3Server, Peculiar], peculiarity: Mapping[str, object], reason: str
) -> None:
    """Law: each way of not keeping conditions is refused with its reason, and nothing stays behind."""
    server, peculiar = peer
    vars(peculiar).update(peculiarity)
    with pytest.raises(StoreRefused, match=reason):
        await opened(server).compare_and_set("domain/a", 0, record(1))
    assert peculiar.objects == {}


@pytest.mark.parametrize("bare", [False, True])
async def test_etag_goes_back_in_the_form_that_the_server_takes(peer: tuple[S3Server, Peculiar], bare: bool) -> None:
    """Law: compare-and-set works with servers that want an ETag as they gave it, and with those that want it bare."""
    server, peculiar = peer
    peculiar.bare_tags = bare
    store = opened(server)
    for generation in range(3):
        assert await store.compare_and_set("domain/a", generation, record(generation + 1))
        assert not await store.compare_and_set("domain/a", generation, record(generation + 1, x="lost"))
    assert await content_of(store, "domain/a") == record(3)


async def test_store_is_probed_once(peer: tuple[S3Server, Peculiar]) -> None:
    """Law: however many write at once, the store is probed once, and a store that only reads never probes."""
    server, peculiar = peer
    reading, writing = opened(server), opened(server)
    await reading.read_record("domain/a")
    await reading.has_blob("ab" * 32)
    assert peculiar.requests["PUT"] == 0
    await asyncio.gather(*(writing.compare_and_set(f"domain/{i}", 0, record(1)) for i in range(10)))
    assert peculiar.requests["DELETE"] == 1


async def test_a_huge_object_is_refused_by_what_the_server_says_of_it(peer: tuple[S3Server, Peculiar]) -> None:
    """Law: the size that comes before the bytes decides: none of them is waited for, and nothing is asked again."""
    server, peculiar = peer
    client = opened(server)
    await client.put_blob(digest(b"x"), b"x")
    peculiar.boasts = 2**40
    peculiar.requests.clear()
    with pytest.raises(LimitExceeded, match=f"{digest(b'x')} is larger than the {1 << 20} bytes that setting largest"):
        await client.get_blob(digest(b"x"), Bound(1 << 20, "setting largest"))
    assert peculiar.requests == {"GET": 1}


async def test_reading_before_writing_costs_one_request(peer: tuple[S3Server, Peculiar]) -> None:
    """Law: what a writer has just read is not read again; if it has changed since, the write is refused."""
    server, peculiar = peer
    one, other = opened(server), opened(server)
    for client in (one, other):
        await client.prepare_writing()
    assert await one.compare_and_set("domain/a", 0, record(1))
    peculiar.requests.clear()
    assert await content_of(one, "domain/a") == record(1)
    assert await content_of(other, "domain/a") == record(1)
    assert await one.compare_and_set("domain/a", 1, record(2))
    assert not await other.compare_and_set("domain/a", 1, record(2, x="lost"))
    assert peculiar.requests == {"GET": 2, "PUT": 2}
    assert not await other.compare_and_set("domain/a", 1, record(2, x="lost"))
    assert await other.compare_and_set("domain/a", 2, record(3))


async def test_lost_race_inside_the_server_is_a_lost_race(peer: tuple[S3Server, Peculiar]) -> None:
    """Law: 409, the answer of S3 to writes that met, is False: nothing was written."""
    server, peculiar = peer
    store = opened(server)
    assert await store.compare_and_set("domain/a", 0, record(1))
    peculiar.failures["PUT"] = (409, b"<Error><Code>ConditionalRequestConflict</Code></Error>")
    assert await store.compare_and_set("domain/a", 1, record(2)) is False
    assert await store.compare_and_set("domain/b", 0, record(1)) is False


async def test_lost_race_that_a_server_calls_its_error_is_a_lost_race(peer: tuple[S3Server, Peculiar]) -> None:
    """Law: Ceph RGW answers some lost races by 500; of many writers still one wins, and each of them knows."""
    server, peculiar = peer
    store = opened(server)
    await store.prepare_writing()
    peculiar.confuses = True
    peculiar.requests.clear()
    for generation in range(5):
        same = record(generation + 1)
        won = await asyncio.gather(*(store.compare_and_set("domain/a", generation, same) for _ in range(8)))
        assert sum(won) == 1
    assert peculiar.requests["PUT"] > 5  # some came as far as losing in the server


@pytest.mark.parametrize("generation", [0, 1])
async def test_write_that_was_done_and_called_an_error_is_done(
    peer: tuple[S3Server, Peculiar], generation: int
) -> None:
    """Law: where a server answers 500 after it wrote, the write is found by its name."""
    server, peculiar = peer
    store = opened(server)
    await store.prepare_writing()
    if generation:
        assert await store.compare_and_set("domain/a", 0, record(1))
    peculiar.forgets = True
    assert await store.compare_and_set("domain/a", generation, record(generation + 1)) is True


async def test_record_keeps_the_names_of_its_last_writes(peer: tuple[S3Server, Peculiar]) -> None:
    """Law: a record's metadata stays bounded however often it is written, and each write has another name."""
    server, peculiar = peer
    store = opened(server)
    for generation in range(40):
        assert await store.compare_and_set("domain/a", generation, record(generation + 1))
    names = peculiar.metadata["store/records/domain/a"].split()
    assert len(names) == len(set(names)) == 32


@pytest.mark.parametrize("generation", [0, 1])
async def test_write_whose_reply_is_lost_is_sent_once(peer: tuple[S3Server, Peculiar], generation: int) -> None:
    """Law: without a reply it is unknown whether a conditional write happened; it is never taken for a lost race."""
    server, peculiar = peer
    store = opened(server)
    await store.prepare_writing()
    if generation:
        assert await store.compare_and_set("domain/a", 0, record(1))
    before = peculiar.requests["PUT"]
    peculiar.loses_replies = True
    with pytest.raises(StoreUnavailable):
        await store.compare_and_set("domain/a", generation, record(generation + 1))
    assert peculiar.requests["PUT"] == before + 1
    assert await content_of(store, "domain/a") == record(generation + 1)


async def test_failing_server_is_asked_three_times_and_told_of(peer: tuple[S3Server, Peculiar]) -> None:
    """Law: reads and blobs are repeated twice, conditional writes never; then the store is unavailable."""
    server, peculiar = peer
    store = opened(server)
    await store.prepare_writing()
    peculiar.requests.clear()
    peculiar.failures = dict.fromkeys(("GET", "PUT"), (503, b"<Error><Code>SlowDown</Code></Error>"))
    for asked in (
        store.read_record("domain/a"),
        store.put_blob(digest(b"x"), b"x"),
        store.compare_and_set("domain/a", 0, record(1)),
    ):
        with pytest.raises(StoreUnavailable, match=r"status 503 \(SlowDown\)"):
            await asked
    assert peculiar.requests == {"GET": 3 + 3, "PUT": 3 + 1}  # and one look at what came of the write


async def test_stalled_server_is_left_within_the_bound(peer: tuple[S3Server, Peculiar]) -> None:
    """Law: whatever is asked of a server that does not answer, StoreUnavailable comes within the time-out."""
    server, peculiar = peer
    store = opened(server, timeout_s=0.3)
    await store.prepare_writing()
    peculiar.stalls = True
    for asked in (
        store.get_blob("ab" * 32),
        store.has_blob("ab" * 32),
        store.put_blob(digest(b"x"), b"x"),
        store.versions(""),
        store.compare_and_set("domain/a", 0, record(1)),
        store.compare_and_set("domain/a", 1, record(2)),
        store.delete_blob("ab" * 32),
    ):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"within 0\.3 s"):
            await asked
        assert time.monotonic() - began < 1.0


async def test_body_that_breaks_off_is_no_content(peer: tuple[S3Server, Peculiar]) -> None:
    """Law: half of a blob or a record is never handed out."""
    server, peculiar = peer
    store = opened(server, timeout_s=1.0)
    await store.put_blob(digest(b"whole" * 1000), b"whole" * 1000)
    assert await store.compare_and_set("domain/a", 0, record(1, x="whole" * 1000))
    peculiar.truncates = True
    with pytest.raises(StoreUnavailable):
        await store.get_blob(digest(b"whole" * 1000))
    with pytest.raises(StoreUnavailable):
        await store.read_record("domain/a")


async def test_damaged_blob_is_healed_by_putting_it_again(peer: tuple[S3Server, Peculiar]) -> None:
    """Law: putting a blob writes it, whatever stands under its name."""
    server, peculiar = peer
    store = opened(server)
    await store.put_blob(digest(b"x"), b"x")
    (path,) = peculiar.objects
    peculiar.objects[path] = b"rotten"
    await store.put_blob(digest(b"x"), b"x")
    assert await store.get_blob(digest(b"x")) == b"x"


async def test_spoilt_record_is_told_by_name(peer: tuple[S3Server, Peculiar]) -> None:
    """Law: what is no JSON object with a generation is a malformed record, for reading and for writing."""
    server, peculiar = peer
    store = opened(server)
    for content in (b"", b"{", b"[]", b"{}", b'{"generation":"1"}', b'{"generation":true}'):
        peculiar.objects["store/records/domain/a"] = content
        for asked in (store.read_record("domain/a"), store.compare_and_set("domain/a", 1, record(2))):
            with pytest.raises(MalformedRecord, match="domain/a"):
                await asked
        assert peculiar.objects["store/records/domain/a"] == content


async def test_refusal_tells_no_secret(peer: tuple[S3Server, Peculiar], monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a server's words on a signature are not repeated; the message says what to do."""
    server, peculiar = peer
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAVISIBLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-words")
    body = b"<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIAVISIBLE</AWSAccessKeyId></Error>"
    peculiar.failures["GET"] = (403, body)
    with pytest.raises(StoreUnavailable, match=r"access denied \(SignatureDoesNotMatch\)") as raised:
        await opened(server).read_record("domain/a")
    assert "AKIA" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_url_is_read() -> None:
    """Law: a URL gives the place, its options and nothing else."""
    url = parse_object_url(
        "s3://a-bucket/some/where/?endpoint=http://127.0.0.1:9/&region=eu&poll_s=2.5&skip_signature=true"
    )
    assert (url.bucket, url.prefix, url.endpoint, url.region) == ("a-bucket", "some/where", "http://127.0.0.1:9", "eu")
    assert (url.poll_s, url.skip_signature) == (2.5, True)
    assert str(url) == "s3://a-bucket/some/where"
    plain = parse_object_url("az://container")
    assert (plain.prefix, plain.endpoint, plain.poll_s, plain.skip_signature) == ("", None, 10.0, False)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://", "s3://bucket/prefix"),
        ("s3:///prefix", "s3://bucket/prefix"),
        ("s3://bucket/x#y", "s3://bucket/prefix"),
        ("s3://bucket/../x", "prefix"),
        ("s3://bucket/a//b", "prefix"),
        ("s3://bucket/a%2Fb", "prefix"),
        ("s3://key:word@bucket/x", "environment"),
        ("s3://bucket/x?endpont=http://h", "did you mean endpoint"),
        ("s3://bucket/x?secret=1", "known are endpoint, region"),
        ("gs://bucket/x?region=eu", "unknown option 'region'"),
        ("s3://bucket/x?region=a&region=b", "exactly one value"),
        ("s3://bucket/x?region=", "exactly one value"),
        ("s3://bucket/x?endpoint=127.0.0.1:9000", "http://host:port"),
        ("s3://bucket/x?endpoint=http://key:word@h", "without credentials"),
        ("s3://bucket/x?poll_s=0", "poll_s"),
        ("s3://bucket/x?poll_s=nan", "poll_s"),
        ("s3://bucket/x?poll_s=soon", "poll_s"),
        ("s3://bucket/x?skip_signature=yes", "true or false"),
        ("http://bucket/x", "s3://, gs:// or az://"),
    ],
)
def test_url_that_is_none_is_told(url: str, reason: str) -> None:
    """Law: what is wrong with a URL is named, what it may hold of secrets is not."""
    with pytest.raises(BadId, match=reason) as raised:
        open_objects(url, timeout_s=1)
    assert "word" not in str(raised.value)


def test_credential_that_cannot_be_read_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: what the library quotes of a malformed credential is left out of the refusal."""
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", '"hidden-words"')
    with pytest.raises(BadId, match="cannot use the object store gs://bucket") as raised:
        open_objects("gs://bucket", timeout_s=1)
    assert "hidden" not in str(raised.value)


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_other_providers_are_opened(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: gs:// and az:// give a backend; no request is made for it."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    assert isinstance(open_objects(f"{scheme}://bucket/x?skip_signature=true", timeout_s=1), ObjectBackend)


async def test_listing_goes_on_when_one_who_waits_gives_up(s3: S3Server) -> None:
    """Law: a feed that is only asked for moments shorter than a listing takes still tells what changed."""
    store = open_objects(s3.url("moments", poll_s=0.001), timeout_s=TIMEOUT_S)
    began = await store.changes(None, 0)
    assert await store.compare_and_set("domain/a", 0, record(1))
    told: set[str] = set()
    for _ in range(2000):
        asking = asyncio.create_task(store.changes(began.position, 1))
        done, _ = await asyncio.wait((asking,), timeout=0.0005)
        if done:
            told |= asking.result().keys
            break
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert told == {"domain/a"}
    await store.close()


async def test_listing_that_fails_is_told_and_spoils_nothing(peer: tuple[S3Server, Peculiar]) -> None:
    """Law: a store that cannot be listed is unavailable for the feed as well, each time it is asked."""
    server, _ = peer  # it lists nothing
    store = opened(server)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await store.changes(None, 0)
    await store.close()
