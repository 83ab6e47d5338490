"""`file://` keeps the contract, across processes and across crashes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapters_store.canonical import digest
from adapters_store.errors import DigestMismatch, MalformedRecord, StoreUnavailable
from adapters_store.file import FileBackend
from adapters_store.store import AdapterStore
from tests.adapters_store.contract import BackendContract, Open, content_of, record, version_of
from tests.adapters_store.writers import DOMAIN, blob

ROOT = Path(__file__).resolve().parents[2]


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts one of `writers.py`'s programs; whatever still runs at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def run(program: str, folder: Path, *numbers: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.adapters_store.writers", program, str(folder), *map(str, numbers)]
        running.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        return running[-1]

    yield run
    for process in running:
        process.kill()
        with process:  # waits, and closes the pipe
            pass


class TestFile(BackendContract):
    """Each client opens the folder anew, as another process does."""

    @pytest.fixture
    def open_backend(self, tmp_path: Path) -> Open:
        """A new client of one folder."""
        return lambda: FileBackend(tmp_path / "store", create=True, poll_s=0.02)


@pytest.mark.timeout(300)
async def test_processes_lose_no_change(tmp_path: Path, start: Start) -> None:
    """Law: 8 processes x 50 changes of one domain leave generation exactly 400."""
    FileBackend(tmp_path, create=True)
    writers = [start("increment", tmp_path, me, 50) for me in range(8)]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    found = await AdapterStore(FileBackend(tmp_path), time.time).domain(DOMAIN)
    assert found is not None
    assert found.generation == 400


async def test_kill_in_the_middle_leaves_nothing_half_written(tmp_path: Path, start: Start) -> None:
    """Law: however often a writer is killed, every readable record and blob is whole, and no promise is lost."""
    backend, promised = FileBackend(tmp_path, create=True), 0
    for attempt in range(8):
        writer = start("for_ever", tmp_path)
        assert writer.stdout is not None
        for _ in range(1 + attempt % 4):  # let it get going, then strike at a moment that nobody chose
            promised = int(writer.stdout.readline())
        writer.kill()
        promised = max([promised, *map(int, writer.communicate()[0].split())])
        read = await backend.read_record("domain/crash")
        assert read is not None
        held = read.record
        assert held["generation"] >= promised
        assert held["p"] == f"{held['generation']} " * 4000
        for name in await backend.list_blobs():
            assert digest(await backend.get_blob(name)) == name
        for generation in range(held["generation"]):
            assert await backend.has_blob(digest(blob(generation)))


async def test_leftover_of_a_killed_writer_is_seen_by_no_reader(tmp_path: Path) -> None:
    """Law: a temporary file is no blob and no record."""
    backend = FileBackend(tmp_path, create=True)
    await backend.put_blob(digest(b"x"), b"x")
    await backend.compare_and_set("domain/a", 0, record(1))
    (tmp_path / "blobs" / digest(b"x")[:2] / ".tmp-1-aa").write_bytes(b"half")
    (tmp_path / "records" / ".tmp-1-aa").write_bytes(b"{")
    (tmp_path / "records" / ".tmp-1-bb.json").write_bytes(b"{")
    assert await backend.list_blobs() == [digest(b"x")]
    assert await backend.list_records("") == ["domain/a"]
    assert set(await backend.versions("")) == {"domain/a"}


async def test_files_of_others_are_no_blobs(tmp_path: Path) -> None:
    """Law: what a file system or a person left among the blobs stops nobody who looks through all of them."""
    backend = FileBackend(tmp_path, create=True)
    name = digest(b"x")
    await backend.put_blob(name, b"x")
    for stray in (".nfs0000000001", ".DS_Store", f"{name}.part"):
        (tmp_path / "blobs" / name[:2] / stray).write_bytes(b"stray")
    assert await backend.list_blobs() == [name]


async def test_lock_of_a_killed_writer_is_free(tmp_path: Path, start: Start) -> None:
    """Law: a writer that dies with the lock in hand stops nobody."""
    backend = FileBackend(tmp_path, create=True)
    await backend.compare_and_set("domain/a", 0, record(1))
    holder = start("hold", tmp_path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    waiting = asyncio.create_task(backend.compare_and_set("domain/a", 1, record(2)))
    assert await content_of(backend, "domain/a") == record(1)
    assert not waiting.done()
    holder.kill()
    assert await waiting


async def test_rotten_blob_is_refused_and_mended_by_publishing_again(tmp_path: Path) -> None:
    """Law: bytes that changed on disk are never handed out, and putting the artifact again repairs them."""
    store = AdapterStore(FileBackend(tmp_path, create=True), lambda: 0.0)
    revision = await store.put(b"artifact")
    path = tmp_path / "blobs" / revision[:2] / revision
    path.write_bytes(b"artifacT")
    with pytest.raises(DigestMismatch, match=f"blob {revision} is damaged in the store"):
        await store.get(revision)
    await store.put(b"artifact")
    assert await store.get(revision) == b"artifact"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"generation":"1"}', b'{"generation":true}', b"\xff"])
async def test_record_that_is_none_is_named(tmp_path: Path, content: bytes) -> None:
    """Law: whatever stands in a record's file, reading gives a record or an error with its key."""
    backend = FileBackend(tmp_path, create=True)
    (tmp_path / "records" / "domain%2Fa.json").write_bytes(content)
    with pytest.raises(MalformedRecord, match="record 'domain/a'"):
        await backend.read_record("domain/a")


async def test_an_unreadable_record_hides_no_other(tmp_path: Path) -> None:
    """Law: listing versions shows every record, one that is none too: whoever reads it is told."""
    backend = FileBackend(tmp_path, create=True)
    await backend.compare_and_set("domain/a", 0, record(1))
    (tmp_path / "records" / "domain%2Fb.json").write_bytes(b"{")
    assert await backend.versions("domain/") == {
        "domain/a": await version_of(backend, "domain/a"),
        "domain/b": digest(b"{"),
    }


async def test_settled_records_are_not_read_again(tmp_path: Path) -> None:
    """Law: polling looks into a record's file only while it may still change unseen, and after each change."""
    backend = FileBackend(tmp_path, create=True)
    await backend.compare_and_set("domain/a", 0, record(1))
    path = tmp_path / "records" / "domain%2Fa.json"
    long_ago = time.time_ns() - 10**10
    os.utime(path, ns=(long_ago, long_ago))
    first = await backend.versions("domain/")
    content = path.read_bytes()
    path.write_bytes(b"!" * len(content))  # in place and dated back, as no writer of ours would: not looked at
    os.utime(path, ns=(long_ago, long_ago))
    assert await backend.versions("domain/") == first
    path.write_bytes(content)
    assert await backend.compare_and_set("domain/a", 1, record(2))
    assert await backend.versions("domain/") == {"domain/a": await version_of(backend, "domain/a")} != first


async def test_change_within_one_tick_of_the_file_systems_clock_is_seen(tmp_path: Path) -> None:
    """Law: a fresh record is read again although inode, size and time are those of the last look."""
    backend = FileBackend(tmp_path, create=True)
    await backend.compare_and_set("domain/a", 0, record(1))
    path = tmp_path / "records" / "domain%2Fa.json"
    state = path.stat()
    assert await backend.versions("domain/") == {"domain/a": digest(b'{"generation":1}')}
    path.write_bytes(b'{"generation":2}')  # in place: the kernel may give a renamed file the inode that was freed
    os.utime(path, ns=(state.st_mtime_ns, state.st_mtime_ns))
    assert await backend.versions("domain/") == {"domain/a": digest(b'{"generation":2}')}


async def test_thousand_domains_are_polled_within_a_tenth_of_a_second(tmp_path: Path) -> None:
    """Law: polling a store at rest costs little enough to be done every second."""
    backend = FileBackend(tmp_path, create=True)
    long_ago = time.time_ns() - 10**10
    for i in range(1000):  # written plainly: 1,000 synced writes would be most of this test
        path = tmp_path / "records" / f"domain%2Ft{i}.json"
        path.write_bytes(b'{"generation":1}')
        os.utime(path, ns=(long_ago, long_ago))
    seconds = []
    for _ in range(8):
        began = time.perf_counter()
        assert len(await backend.versions("domain/")) == 1000
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.1


def test_absent_store_is_not_made_by_looking(tmp_path: Path) -> None:
    """Law: a mistyped URL is an error with advice, not an empty store."""
    with pytest.raises(StoreUnavailable, match=r"there is no store in .*: check the URL, or publish to it first"):
        FileBackend(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


async def test_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    """Law: what the file system refuses is `StoreUnavailable`, never an OSError."""
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="cannot create a store"):
        FileBackend(tmp_path / "file" / "store", create=True)
    backend = FileBackend(tmp_path / "store", create=True)
    (tmp_path / "store" / "blobs").rmdir()
    (tmp_path / "store" / "blobs").touch()
    with pytest.raises(StoreUnavailable, match="Not a directory"):
        await backend.put_blob(digest(b"x"), b"x")
