"""Laws of Amazon 5-core: three files are three domains, more than 3 stars the label, the time may give the split."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from training.errors import SourceError
from training.sources.amazon_5core import amazon_5core

FILES = {
    "clothing": "reviews_Clothing_Shoes_and_Jewelry_5.json.gz",
    "beauty": "reviews_Beauty_5.json.gz",
    "health": "reviews_Health_and_Personal_Care_5.json.gz",
}
LAST_OF_FEBRUARY, MARCH, LAST_BUT_ONE_OF_APRIL, LAST_OF_APRIL = 1393545600, 1393632000, 1398729600, 1398816000
ROWS = [
    ("A2", "B1", 5.0, LAST_OF_FEBRUARY),
    ("A1", "B1", 3.0, MARCH),
    ("A1", "B2", 4.0, LAST_BUT_ONE_OF_APRIL),
    ("A1", "B3", 1.0, LAST_OF_APRIL),
]


def write(folder: Path) -> Path:
    for file in FILES.values():
        lines = [
            json.dumps({"reviewerID": user, "asin": item, "overall": stars, "unixReviewTime": time, "summary": "x"})
            for user, item, stars, time in ROWS
        ]
        (folder / file).write_bytes(gzip.compress("\n".join(lines).encode() + b"\n"))
    return folder


def test_the_time_gives_the_split(tmp_path: Path) -> None:
    """Law: before 1 March 2014 trains, before 30 April validates, the rest tests; stars above 3 are label 1."""
    prepared = amazon_5core(write(tmp_path), split="time", any_size=True)
    prepared.check()
    expected = [
        (user, item, domain, label, part)
        for domain in sorted(FILES)
        for user, item, label, part in (
            ("A1", "B1", 0, "validation"),
            ("A1", "B2", 1, "validation"),
            ("A1", "B3", 0, "test"),
            ("A2", "B1", 1, "train"),
        )
    ]
    assert prepared.interactions.rows() == expected


def test_the_random_split_is_left_to_the_run(tmp_path: Path) -> None:
    """Law: the same rows without the column."""
    prepared = amazon_5core(write(tmp_path), any_size=True)
    timed = amazon_5core(tmp_path, split="time", any_size=True)
    assert prepared.interactions.equals(timed.interactions.drop("split"))
    assert Counter(prepared.interactions["domain_id"].to_list()) == dict.fromkeys(FILES, 4)


def test_other_counts_than_the_public_ones_are_refused(tmp_path: Path) -> None:
    """Law: the message names the file, and rows, users and items as found and as known."""
    with pytest.raises(SourceError, match=r"Clothing_.*4 rows instead of 278,677 and 2 users instead of 39,387 and 3 "):
        amazon_5core(write(tmp_path))


def test_a_review_without_time_is_refused(tmp_path: Path) -> None:
    """Law: the message names file and line."""
    write(tmp_path)
    (tmp_path / FILES["beauty"]).write_bytes(gzip.compress(b'{"reviewerID":"A","asin":"B","overall":5}\n'))
    with pytest.raises(SourceError, match=r"reviews_Beauty_5\.json\.gz, line 1: is no review .*unixReviewTime"):
        amazon_5core(tmp_path, any_size=True)
