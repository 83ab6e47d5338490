"""The local disk cache: bounded, checked, shared, and safe to lose at any time."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapters_store.backend import Versioned
from adapters_store.canonical import digest
from adapters_store.disk import DiskCache, refuse_strangers
from adapters_store.errors import StoreRefused
from tests.adapters_store.cachers import blob

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
DAY_NS = 86_400 * 10**9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the cache is; not there yet."""
    return tmp_path / "deep" / "cache"


@pytest.fixture
def faults() -> list[str]:
    """What the cache told."""
    return []


@pytest.fixture
def cache(folder: Path, faults: list[str]) -> DiskCache:
    """A cache of 1 MiB."""
    return DiskCache(folder, MIB, on_fault=faults.append)


def blob_file(folder: Path, content: bytes) -> Path:
    return folder / "blobs" / digest(content)[:2] / digest(content)


def kept_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "blobs").rglob("*") if path.is_file())


def state_of(path: Path) -> os.stat_result:
    return path.stat()


def used_ago(folder: Path, content: bytes, ago_ns: int) -> None:
    path = blob_file(folder, content)
    os.utime(path, ns=(time.time_ns() - ago_ns, path.stat().st_mtime_ns))


@contextmanager
def no_file_larger_than(size_bytes: int) -> Iterator[None]:
    """The kernel refuses to write on, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_blob_that_was_kept_comes_back(cache: DiskCache, folder: Path) -> None:
    """Law: bytes come back exactly, also from a later process; what was never kept is None."""
    for content in (b"", b"\0\xff" * 10, bytes(100_000)):
        assert await cache.get(digest(content)) is None
        assert await cache.path(digest(content)) is None
        await cache.put(digest(content), content)
        assert await DiskCache(folder, MIB).get(digest(content)) == content
        path = await cache.path(digest(content))
        assert path is not None
        assert path.read_bytes() == content
    assert DiskCache(folder, MIB).size_bytes() == cache.size_bytes() == kept_bytes(folder) == 100_020


@pytest.mark.parametrize("rotten", [b"artifacT", b"artifac", b"", b"artifact "])
async def test_damaged_blob_is_not_there(cache: DiskCache, folder: Path, faults: list[str], rotten: bytes) -> None:
    """Law: flipped, cut or lengthened bytes are never given, by get or by path, and are removed and told."""
    name, path = digest(b"artifact"), blob_file(folder, b"artifact")
    for ask in (cache.get, cache.path):
        await cache.put(name, b"artifact")
        assert await cache.path(name) == path  # verified once, and yet looked at again when it changes
        path.write_bytes(rotten)
        assert await ask(name) is None
        assert not path.exists()
    assert faults == [f"{name} was damaged in the disk cache, and is removed"] * 2
    await cache.put(name, b"artifact")
    assert await cache.get(name) == b"artifact"


async def test_bytes_that_are_not_their_digest_are_not_kept(cache: DiskCache, folder: Path) -> None:
    """Law: what a truth gave damaged does not enter."""
    await cache.put(digest(b"x"), b"y")
    assert await cache.get(digest(b"x")) is None
    assert kept_bytes(folder) == 0 if (folder / "blobs").exists() else True


async def test_limit_is_never_exceeded_and_the_used_ones_stay(cache: DiskCache, folder: Path) -> None:
    """Law: after every put the blobs take at most the limit, and those used most recently are still there."""
    first = blob(0)
    await cache.put(digest(first), first)
    for i in range(1, 300):
        used_ago(folder, first, 2 * DAY_NS)
        assert await cache.get(digest(first)) == first  # used, so the oldest is always another
        await cache.put(digest(blob(i)), blob(i))
        used_ago(folder, blob(i), DAY_NS - i * 10**9)
        assert kept_bytes(folder) <= MIB
        assert cache.size_bytes() == kept_bytes(folder)
    assert await cache.get(digest(blob(299))) == blob(299)
    assert await cache.get(digest(blob(1))) is None
    assert kept_bytes(folder) > MIB // 2


async def test_use_is_noted_whatever_the_mount_options(cache: DiskCache, folder: Path) -> None:
    """Law: mapping a blob counts as its use after a minute, and changes nothing of what says that it was verified."""
    await cache.put(digest(b"x"), b"x")
    path = await cache.path(digest(b"x"))
    used_ago(folder, b"x", 61 * 10**9)
    before = state_of(blob_file(folder, b"x"))
    assert await cache.path(digest(b"x")) == path
    after = state_of(blob_file(folder, b"x"))
    assert after.st_atime_ns - before.st_atime_ns >= 60 * 10**9
    assert after.st_mtime_ns == before.st_mtime_ns


async def test_blob_larger_than_the_limit_drives_nobody_out(folder: Path) -> None:
    """Law: what could never fit is not kept, and removes nothing."""
    cache = DiskCache(folder, 1000)
    await cache.put(digest(b"x" * 900), b"x" * 900)
    await cache.put(digest(b"y" * 1001), b"y" * 1001)
    assert await cache.get(digest(b"x" * 900)) is not None
    assert await cache.get(digest(b"y" * 1001)) is None
    await cache.put(digest(b"z" * 1000), b"z" * 1000)  # exactly the limit: alone
    assert kept_bytes(folder) == 1000


async def test_who_finds_another_evicting_goes_on(folder: Path) -> None:
    """Law: there is one evictor at a time, nobody waits for it, and a dead one's lock is free."""
    cache = DiskCache(folder, 1000)
    with (folder / "evicting").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for letter in b"abc":
            await cache.put(digest(bytes([letter]) * 400), bytes([letter]) * 400)
        assert kept_bytes(folder) == 1200
    await cache.put(digest(b"d" * 400), b"d" * 400)
    assert kept_bytes(folder) <= 1000


async def test_folder_may_be_deleted_while_in_use(cache: DiskCache, folder: Path, faults: list[str]) -> None:
    """Law: after any deletion nothing is there, nothing fails, and the next put works and counts afresh."""
    for doomed in (folder, folder.parent, folder / "blobs", folder / "size"):
        await cache.put(digest(b"x"), b"x")
        path = await cache.path(digest(b"x"))
        assert path is not None
        shutil.rmtree(doomed) if doomed.is_dir() else doomed.unlink()
        assert (await cache.get(digest(b"x")) is None) is (doomed.name != "size")
        assert (await cache.path(digest(b"x")) is None) is (doomed.name != "size")
        await cache.put(digest(b"y" * 100), b"y" * 100)
        assert await cache.get(digest(b"y" * 100)) is not None
        await cache.write_record("release", Versioned({"generation": 1}, "v"))
        assert stat.S_IMODE(state_of(folder).st_mode) == 0o700
    assert faults == []
    assert cache.size_bytes() >= kept_bytes(folder)


async def test_leftovers_of_a_killed_writer_are_cleared_away(folder: Path) -> None:
    """Law: an old temporary file goes with the next sweep, a young one may be somebody's work."""
    cache = DiskCache(folder, 1000)
    await cache.put(digest(b"x" * 600), b"x" * 600)
    old, young = (blob_file(folder, b"x" * 600).with_name(f".tmp-1-{name}") for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, ns=(0, time.time_ns() - DAY_NS))
    await cache.put(digest(b"y" * 600), b"y" * 600)
    assert not old.exists()
    assert young.exists()


def test_folder_is_ours_alone(folder: Path, tmp_path: Path) -> None:
    """Law: the folder is made 0700; readable by others it is closed, writable by others it is refused."""
    DiskCache(folder, MIB)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)
    DiskCache(folder, MIB)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for mode in (0o770, 0o702):
        folder.chmod(mode)
        with pytest.raises(StoreRefused, match="can be written by others: chmod 700 it, or choose another"):
            DiskCache(folder, MIB)
    (tmp_path / "file").touch()
    with pytest.raises(StoreRefused, match="is no folder"):
        DiskCache(tmp_path / "file", MIB)
    with pytest.raises(StoreRefused, match="cannot make the cache folder"):
        DiskCache(tmp_path / "file" / "cache", MIB)


def test_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """Law: records carry no proof of who wrote them, so a stranger's folder is not used."""
    stranger = os.geteuid() + 1
    state = os.stat_result((stat.S_IFDIR | 0o700, 1, 1, 1, stranger, 0, 0, 0, 0, 0))
    with pytest.raises(StoreRefused, match=f"belongs to user {stranger}, not to us"):
        refuse_strangers(tmp_path, state)


async def test_folder_opened_to_others_later_is_no_longer_used(
    cache: DiskCache, folder: Path, faults: list[str]
) -> None:
    """Law: the check is not only made at the start; the cache is then skipped, and that is told."""
    await cache.write_record("release", Versioned({"generation": 1}, "v"))
    os.chmod(folder, 0o777)
    assert await cache.read_record("release") is None
    assert "can be written by others" in faults[0]


async def test_disk_that_refuses_fails_nothing(cache: DiskCache, folder: Path, faults: list[str]) -> None:
    """Law: a full or broken disk means that nothing is kept, is told, and leaves no half file and no wrong count."""
    await cache.put(digest(b"x"), b"x")
    with no_file_larger_than(1000):
        await cache.put(digest(b"y" * 2000), b"y" * 2000)
        await cache.write_record("domain/a", Versioned({"generation": 1, "by": "y" * 2000}, "v"))
    assert len(faults) == 2
    assert all("the disk cache is skipped" in fault for fault in faults)
    assert await cache.get(digest(b"y" * 2000)) is None
    assert await cache.read_record("domain/a") is None
    assert kept_bytes(folder) == cache.size_bytes() == 1
    shutil.rmtree(folder / "blobs")
    (folder / "blobs").touch()
    await cache.put(digest(b"z"), b"z")
    assert await cache.get(digest(b"z")) is None
    assert len(faults) > 2


async def test_record_is_kept_with_its_version(cache: DiskCache, folder: Path) -> None:
    """Law: the last record kept comes back whole, to every process; that there was none is told apart from unknown."""
    record = {"generation": 7, "x": "é", "deep": [1, None, 2.5]}
    await cache.write_record("domain/a", Versioned({"generation": 6}, "v6"))
    await cache.write_record("domain/a", Versioned(record, "v7"))
    await cache.keep({"switches": None})
    other = DiskCache(folder, MIB)
    assert await other.read_record("domain/a") == Versioned(record, "v7")
    assert await other.recall(["domain/a", "switches", "release"]) == {
        "domain/a": Versioned(record, "v7"),
        "switches": None,
    }


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:64], lambda b: b.replace(b":7", b":8"), lambda b: b""]
)
async def test_damaged_record_is_not_there(
    cache: DiskCache, folder: Path, faults: list[str], damage: type[bytes]
) -> None:
    """Law: a torn or changed record is ignored, removed and told."""
    await cache.write_record("domain/a", Versioned({"generation": 7}, "v"))
    [path] = (folder / "records").glob("*/*")
    path.write_bytes(damage(path.read_bytes()))
    assert await cache.recall(["domain/a"]) == {}
    assert not path.exists()
    assert "damaged" in faults[0]


async def test_late_answer_does_not_replace_a_later_generation(cache: DiskCache, folder: Path) -> None:
    """Law: of two workers that keep the same record, the one that asked earlier does not undo the other's; but a truth
    that went back (restored from a backup) is followed."""
    asked = time.time_ns() - 10**9
    await DiskCache(folder, MIB).write_record("domain/a", Versioned({"generation": 8}, "v8"))
    await cache.keep({"domain/a": Versioned({"generation": 7}, "v7")}, asked)
    assert await cache.read_record("domain/a") == Versioned({"generation": 8}, "v8")
    await cache.keep({"domain/a": Versioned({"generation": 7}, "v7")}, time.time_ns() + 10**9)
    assert await cache.read_record("domain/a") == Versioned({"generation": 7}, "v7")


async def test_what_serves_from_memory_outlives_what_is_published(cache: DiskCache, folder: Path) -> None:
    """Law: blobs whose use is noted stay, though nobody reads them, while as many others as the cache holds come and
    go; a name that is not there changes nothing."""
    serving = [blob(i) for i in range(3)]
    for content in serving:
        await cache.put(digest(content), content)
    for i in range(3, 300):
        for content in serving:
            used_ago(folder, content, 2 * DAY_NS)
        await cache.used([digest(b"never kept"), *map(digest, serving)])
        await cache.put(digest(blob(i)), blob(i))
        used_ago(folder, blob(i), DAY_NS - i * 10**9)
    assert [await cache.get(digest(content)) for content in serving] == serving
    assert await cache.get(digest(blob(3))) is None
    assert not blob_file(folder, b"never kept").exists()


async def test_records_of_prepared_blobs_go_before_those_of_domains(folder: Path) -> None:
    """Law: what only saves work crowds out no domain, however many such records come, and however old the domain's."""
    cache = DiskCache(folder, MIB, limit_records=40)
    domains = [f"domain/{i}" for i in range(30)]
    await cache.keep({domain: Versioned({"generation": 1}, "v") for domain in domains})
    for i in range(120):
        await cache.write_record(f"prepared/{digest(blob(i))}", Versioned({"blob": digest(blob(i))}, "v"))
    assert len(await cache.recall(domains)) == 30
    assert len(list((folder / "records").glob("*/*"))) <= 45


async def test_leftovers_among_the_records_are_cleared_away_below_the_limit(folder: Path) -> None:
    """Law: a look at how many records there are removes what a killed writer left an hour ago, and nothing else."""
    cache = DiskCache(folder, MIB, limit_records=80)
    await cache.write_record("domain/0", Versioned({"generation": 1}, "v"))
    [kept] = (folder / "records").glob("*/*")
    old, young = (kept.with_name(f".tmp-1-{name}") for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, ns=(0, time.time_ns() - DAY_NS))
    for i in range(1, 11):
        await cache.write_record(f"domain/{i}", Versioned({"generation": 1}, "v"))
    assert not old.exists()
    assert young.exists()
    assert len(await cache.recall([f"domain/{i}" for i in range(11)])) == 11


async def test_records_are_bounded_and_the_few_without_id_stay(folder: Path) -> None:
    """Law: the longest unchanged domain records go; `release` and its like never do, and tables only behind them."""
    cache = DiskCache(folder, MIB, limit_records=40)
    tables = f"features/{digest(b'weights')}:items"
    for key in ("release", tables):
        await cache.write_record(key, Versioned({"generation": 1}, "v"))
    for i in range(120):
        await cache.write_record(f"domain/{i}", Versioned({"generation": 1}, "v"))
    found = await cache.recall([f"domain/{i}" for i in range(120)])
    assert 30 <= len(found) <= 45
    assert "domain/119" in found
    assert len(await cache.recall(["release", tables])) == 2


@pytest.mark.timeout(60)
def test_processes_share_one_cache(folder: Path) -> None:
    """Law: four processes that fill and read a cache too small for all never see a wrong byte or a fault, and leave at
    most the limit (and what they were writing)."""
    limit = 500_000
    command = [sys.executable, "-m", "tests.adapters_store.cachers", str(folder)]
    workers = [
        subprocess.Popen([*command, str(seed), "150", str(limit)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for seed in range(4)
    ]
    said = [worker.communicate(timeout=50)[0].strip() for worker in workers]
    assert said == ["300 []"] * 4
    assert kept_bytes(folder) <= limit + 4 * 10_000
