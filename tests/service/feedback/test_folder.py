"""Laws of the folder of segments: private, one writer a file, nothing acknowledged is lost, bounded."""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.feedback.folder import SegmentFolder, create_locked, locked
from service.feedback.segments import SegmentWriter
from tests.service.feedback.parts import NOW

NAME = "20251121T172000000Z-replica-1-0000000{}"


def folder_at(path: Path) -> SegmentFolder:
    folder = SegmentFolder(path / "feedback")
    folder.prepare()
    return folder


def writer_in(folder: SegmentFolder, **given: object) -> SegmentWriter:
    given = {"segment_bytes": 100, "segment_s": 60.0, "now": lambda: NOW, **given}
    return SegmentWriter(folder, "replica/1", **given)  # type: ignore[arg-type]


def states(folder: SegmentFolder) -> list[str]:
    return [segment.named.state for segment in folder.segments()]


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    """Law: the folder is 0700 and a segment 0600, whatever the umask; a folder that was open is closed."""
    (tmp_path / "feedback").mkdir(mode=0o755)
    before = os.umask(0)
    try:
        folder = folder_at(tmp_path)
        writer_in(folder).append(b"x\n")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert [stat.S_IMODE(segment.path.stat().st_mode) for segment in folder.segments()] == [0o600]


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """Law: what is no folder ends in an OSError."""
    (tmp_path / "feedback").write_text("")
    with pytest.raises(OSError, match="exists"):
        folder_at(tmp_path)


def test_segments_close_by_size_and_by_age(tmp_path: Path) -> None:
    """Law: no segment grows past its size by a further append, and none stays open past its age."""
    now = [NOW]
    folder = folder_at(tmp_path)
    writer = writer_in(folder, now=lambda: now[0])
    for _ in range(5):
        writer.append(b"x" * 39 + b"\n")
    assert sorted(states(folder)) == ["closed", "closed", "open"]
    assert max(segment.size_bytes for segment in folder.segments()) <= 100
    writer.close_if_old()
    assert "open" in states(folder)
    now[0] += 60
    writer.close_if_old()
    assert states(folder) == ["closed"] * 3
    writer.close_if_old()


def test_content_larger_than_a_segment_has_one_of_its_own(tmp_path: Path) -> None:
    """Law: lines are never split over segments."""
    folder = folder_at(tmp_path)
    writer = writer_in(folder)
    for content in (b"a\n", b"y" * 500 + b"\n", b"b\n"):
        writer.append(content)
    writer.close()
    assert sorted(segment.path.read_bytes()[:1] for segment in folder.segments()) == [b"a", b"b", b"y"]


def test_two_writers_have_two_files(tmp_path: Path) -> None:
    """Law: writers of one folder and one name never share a segment, and none closes another's as an orphan."""
    folder = folder_at(tmp_path)
    writers = [writer_in(folder, segment_bytes=1 << 20) for _ in range(3)]
    for _ in range(10):
        for number, writer in enumerate(writers):
            writer.append(f"{number}\n".encode())
    assert folder.close_orphans() == 0
    contents = [set(segment.path.read_text().split()) for segment in folder.segments()]
    assert sorted(map(sorted, contents)) == [["0"], ["1"], ["2"]]


@pytest.mark.parametrize("tail", [b"", b'{"torn', b"t" * 200_000])
def test_an_orphan_is_closed_without_its_torn_line(tmp_path: Path, tail: bytes) -> None:
    """Law: what a dead process left is closed; whole lines stay, an unfinished one goes, an empty file goes."""
    folder = folder_at(tmp_path)
    (folder.path / f"{NAME.format(1)}.open.ndjson").write_bytes(b"one\ntwo\n" + tail)
    (folder.path / f"{NAME.format(2)}.open.ndjson").write_bytes(tail)
    (folder.path / "notes.txt").write_text("somebody's")
    assert folder.close_orphans() == 2
    assert [(one.named.state, one.path.read_bytes()) for one in folder.segments()] == [("closed", b"one\ntwo\n")]
    assert (folder.path / "notes.txt").exists()


def test_who_is_too_late_gets_no_lock(tmp_path: Path) -> None:
    """Law: a file that was renamed while its lock was waited for is not held, and a held one is refused."""
    folder = folder_at(tmp_path)
    path = folder.path / f"{NAME.format(1)}.open.ndjson"
    descriptor = create_locked(path)
    with locked(path) as held:
        assert held is None
    os.close(descriptor)
    with locked(path) as held:
        assert held is not None
        with pytest.raises(FileExistsError):
            create_locked(path)
    path.rename(path.with_name("away"))
    with locked(path) as held:
        assert held is None


def test_room_is_made_of_shipped_segments_only_oldest_first(tmp_path: Path) -> None:
    """Law: deleting for room takes shipped segments, oldest first and no more than needed; others are never deleted."""
    folder = folder_at(tmp_path)
    for number, suffix in ((1, ""), (2, ".shipped"), (3, ".shipped"), (4, ".shipped"), (5, ".open")):
        (folder.path / f"{NAME.format(number)}{suffix}.ndjson").write_bytes(b"x" * 100)
    assert folder.make_room(100, 600)
    assert len(folder.segments()) == 5
    assert folder.make_room(150, 600)
    assert [segment.named.name[-1] for segment in folder.segments()] == ["1", "3", "4", "5"]
    assert not folder.make_room(500, 600)
    assert states(folder) == ["closed", "open"]


def test_a_shipped_segment_is_named_so(tmp_path: Path) -> None:
    """Law: shipping renames; one that somebody took away meanwhile is no error."""
    folder = folder_at(tmp_path)
    (folder.path / f"{NAME.format(1)}.ndjson").write_bytes(b"x\n")
    segment = folder.segments()[0]
    folder.mark_shipped(segment)
    assert states(folder) == ["shipped"]
    folder.mark_shipped(segment)


def test_days_are_seen_however_they_change(tmp_path: Path) -> None:
    """Law: what is remembered of a day is as good as looking: files that come, go and are renamed are noticed."""
    folder, fresh = folder_at(tmp_path), lambda: SegmentFolder(tmp_path / "feedback")
    day = folder.path / "2025-11-21"
    day.mkdir()
    for number in range(5):
        (day / f"{NAME.format(number)}.ndjson").write_bytes(b"x" * number)
        os.utime(day, ns=(1_000 + number, 1_000 + number))  # long ago, so that it is remembered
        assert folder.segments() == fresh().segments()
        assert folder.segments() == fresh().segments()
    folder.mark_shipped(folder.segments()[2])
    assert folder.segments() == fresh().segments()
    assert "shipped" in states(folder)
    (day / f"{NAME.format(4)}.ndjson").unlink()
    assert folder.segments() == fresh().segments()
    assert len(folder.segments()) == 4


def test_closed_segments_lie_in_their_day(tmp_path: Path) -> None:
    """Law: only open segments lie beside the days, and a day's folder is as private; emptied by shipping, it goes."""
    folder = folder_at(tmp_path)
    writer = writer_in(folder)
    writer.append(b"x\n")
    writer.close()
    (segment,) = folder.segments()
    assert segment.path.parent == folder.path / "2025-11-21"
    assert stat.S_IMODE(segment.path.parent.stat().st_mode) == 0o700
    folder.mark_shipped(segment)
    assert folder.make_room(100, 100)
    assert list(folder.path.iterdir()) == []


def test_writers_and_closers_do_not_meet(tmp_path: Path) -> None:
    """Law: writers that rotate at every other line, beside others that close orphans all the time, lose no line."""
    folder, done = folder_at(tmp_path), threading.Event()

    def write(number: int) -> None:
        writer = writer_in(SegmentFolder(folder.path), segment_bytes=20)
        for line in range(100):
            writer.append(f"{number}-{line}\n".encode())
        writer.close()

    def close() -> None:
        while not done.is_set():
            SegmentFolder(folder.path).close_orphans()

    with ThreadPoolExecutor() as pool:
        closers = [pool.submit(close) for _ in range(2)]
        try:
            for writing in [pool.submit(write, number) for number in range(3)]:
                writing.result()
        finally:
            done.set()
        for closer in closers:
            closer.result()
    lines = [line for segment in folder.segments() for line in segment.path.read_text().split()]
    assert sorted(lines) == sorted(f"{number}-{line}" for number in range(3) for line in range(100))
    assert set(states(folder)) == {"closed"}
