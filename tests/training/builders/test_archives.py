"""Laws of the authors' prepared archives: rows, labels and parts are taken as they are, from a folder or a .zip."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from training.builders.archives import is_archive, read_archive
from training.errors import SourceError
from training.prepared import PreparedDataset
from training.progress import SilentMeter

ROWS = {
    "train": [(4, 11, 1), (0, 10, 0), (0, 12, 1), (4, 10, 0)],
    "val": [(4, 12, 0)],
    "test": [(0, 11, 0), (2, 10, 1)],
}


def write(folder: Path, domains: int = 2, parent: str = "split_by_theme_2") -> Path:
    for number in range(domains):
        own = folder / parent / f"domain_{number}"
        own.mkdir(parents=True)
        for file, rows in ROWS.items():
            lines = [f"{uid + number},{pid},{number},{label}" for uid, pid, label in rows]
            (own / f"{file}.csv").write_text("\n".join(["uid,pid,domain,label", *lines]) + "\n")
        properties = {"domain_name": f"Theme_{number + 5}", "n_uid": 3, "n_pid": 3, "ctr_ratio": 0.25}
        (own / "domain_property.json").write_text(json.dumps(properties))
    (folder / parent / "processed_data").mkdir()
    (folder / parent / "processed_data" / "theme_5.csv").write_text("user_id,item_id\n")
    return folder


def read(source: Path, domains: int = 2) -> PreparedDataset:
    return read_archive("taobao-10", "theme", domains, source, SilentMeter())


def test_rows_labels_and_parts_are_taken_as_they_are(tmp_path: Path) -> None:
    """Law: every line of every file is a row; val.csv validates."""
    prepared = read(write(tmp_path))
    prepared.check()
    parts = {"train": "train", "val": "validation", "test": "test"}
    expected = {
        (uid + number, pid, f"theme-{number + 5}", label, parts[file])
        for number in range(2)
        for file, rows in ROWS.items()
        for uid, pid, label in rows
    }
    assert len(prepared.interactions) == len(expected)
    assert set(prepared.interactions.rows()) == expected
    assert prepared.spec.natural.domains == ("theme-5", "theme-6")
    assert prepared.spec.facts["ratios"] == {"theme-5": 0.25, "theme-6": 0.25}


def test_a_zip_is_read_like_its_folder(tmp_path: Path) -> None:
    """Law: unpacked or not, the same data."""
    folder = write(tmp_path / "folder")
    with zipfile.ZipFile(tmp_path / "Taobao.zip", "w") as archive:
        for path in folder.rglob("*.*"):
            archive.write(path, Path("Taobao") / path.relative_to(folder))
    assert is_archive(tmp_path / "Taobao.zip")
    assert is_archive(folder)
    assert read(tmp_path / "Taobao.zip").interactions.equals(read(folder).interactions)


def test_of_several_sets_the_one_of_the_right_size_is_taken(tmp_path: Path) -> None:
    """Law: the archive of Taobao-10, -20 and -30 serves each; no set of that size is refused, with what is there."""
    write(write(tmp_path, 3, "split_by_theme_3"), 2)
    assert len(read(tmp_path, 3).spec.natural.domains) == 3
    assert len(read(tmp_path, 2).spec.natural.domains) == 2
    with pytest.raises(SourceError, match=r"holds 0 sets of 10 domains .split_by_theme_2: 2, split_by_theme_3: 3"):
        read(tmp_path, 10)


def test_public_files_are_no_archive(tmp_path: Path) -> None:
    """Law: a folder without domain folders, or none at all, is no archive."""
    (tmp_path / "theme_click_log.csv").write_text("user_id,item_id,theme_id\n")
    assert not is_archive(tmp_path)
    assert not is_archive(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("val.csv", None, "val.csv: is missing"),
        ("val.csv", "uid,pid,label\n1,2,0\n", "val.csv, line 1: the header lacks domain"),
        ("val.csv", "uid,pid,domain,label\n1,2,1,0\n1,2,1,3\n", "val.csv, line 3: is no row of domain 1: 1,2,1,3"),
        ("val.csv", "uid,pid,domain,label\n1,2,0,0\n", "val.csv, line 2: is no row of domain 1"),
        ("val.csv", "uid,pid,domain,label\n1,x,1,0\n", "val.csv, line 2: is no row of domain 1: 1,x,1,0"),
        ("val.csv", "", "val.csv: is no CSV"),
        ("domain_property.json", "{", "domain_property.json: is no JSON"),
    ],
)
def test_a_broken_file_is_refused_by_file_and_line(
    tmp_path: Path, file: str, content: str | None, message: str
) -> None:
    """Law: the message names file, line and what is wrong."""
    path = write(tmp_path) / "split_by_theme_2" / "domain_1" / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(SourceError, match=message):
        read(tmp_path)
