"""Laws of the Amazon sets, on generated review files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.training.builders.slow_rules import slow_domain
from training.builders.amazon import AMAZON_6, AMAZON_13, amazon
from training.builders.assembly import BuildOptions
from training.builders.rules import ratios
from training.errors import SourceError
from training.prepared import PreparedDataset
from training.progress import SilentMeter
from training.sources.clicklog import ClickWorld, write_reviews

WORLD = ClickWorld(seed=5, themes=6, users=50, items=60, clicks=700, items_per_theme=30)
MUSIC = "Musical_Instruments_5.json.gz"


def build(folder: Path) -> PreparedDataset:
    return amazon("amazon-6", AMAZON_6, folder, BuildOptions(seed=2, any_size=True), SilentMeter())


def reviews(folder: Path, category: str) -> list[tuple[str, str]]:
    """User and item of each different review."""
    lines = gzip.decompress((folder / f"{category.replace(' ', '_')}_5.json.gz").read_bytes()).splitlines()
    different = {(one["reviewerID"], one["asin"], one["overall"]) for one in map(json.loads, lines)}
    return [(user, item) for user, item, _ in different]


def test_rows_are_those_of_the_slow_rules(tmp_path: Path) -> None:
    """Law: category by category what plain loops over the reviews give; other stars are another review."""
    write_reviews(tmp_path, AMAZON_6, WORLD)
    prepared = build(tmp_path)
    prepared.check()
    expected = []
    for category, ratio in zip(AMAZON_6, ratios(6), strict=True):
        expected += slow_domain(category.lower().replace(" ", "-"), reviews(tmp_path, category), ratio, 2)
    assert prepared.interactions.rows() == expected
    positives = prepared.interactions.filter(label=1)
    assert len(positives) > len(positives.unique())


def test_plain_files_are_read_like_packed_ones(tmp_path: Path) -> None:
    """Law: `_5.json` gives what `_5.json.gz` gives."""
    write_reviews(tmp_path / "packed", AMAZON_6, WORLD)
    (tmp_path / "plain").mkdir()
    for path in (tmp_path / "packed").iterdir():
        (tmp_path / "plain" / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    assert build(tmp_path / "plain").interactions.equals(build(tmp_path / "packed").interactions)


def test_categories_are_the_papers() -> None:
    """Law: thirteen categories, and the six of Amazon-6 among them in the same order."""
    assert len(AMAZON_13) == 13
    assert [category for category in AMAZON_13 if category in AMAZON_6] == list(AMAZON_6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b'{"reviewerID":"A","asin":"B","overall":5}\n{"asin":"B"}\n'), "line 2: is no review"),
        (gzip.compress(b'{"reviewerID":"A","asin":"B","overall":5}\n')[:-9], "line [12]: cannot be read"),
        (gzip.compress(b""), "is empty"),
        (None, "is missing"),
    ],
    # gzip writes the second it packed at, so the bytes cannot name a case: every worker has to collect the same names.
    ids=["a line that is no review", "a file cut off", "an empty file", "no file"],
)
def test_a_broken_file_is_refused_by_file_and_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    """Law: a file that is missing, empty, cut or no list of reviews is named, with the line."""
    write_reviews(tmp_path, AMAZON_6, WORLD)
    (tmp_path / MUSIC).unlink()
    if content is not None:
        (tmp_path / MUSIC).write_bytes(content)
    with pytest.raises(SourceError, match=f"{MUSIC}.*{message}"):
        build(tmp_path)
