"""Laws of a split that the data brings along: honoured row by row, its validation rows halved, refused when odd."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from features.fields import Division
from training.dataset import split_of, split_rows
from training.errors import PreparedError
from training.prepared import DatasetSpec, FieldSpec, PreparedDataset

DOMAINS = ("theme-a", "theme-b", "theme-c")
SPEC = DatasetSpec(
    name="given",
    fields=(FieldSpec(name="user", kind="sparse", of="user", column="user_id", id=True),),
    divisions=(Division(name="theme", natural=True, of="domain", domains=DOMAINS),),
)


def given(n: int = 600, **columns: object) -> PreparedDataset:
    draw = np.random.default_rng(5)
    rows = pl.DataFrame(
        {
            "user_id": draw.integers(20, size=n),
            "item_id": draw.integers(9, size=n),
            "domain_id": draw.choice(DOMAINS, size=n, p=[0.7, 0.28, 0.02]),
            "label": draw.integers(2, size=n).astype(np.int8),
            "split": draw.choice(["train", "validation", "test"], size=n, p=[0.6, 0.2, 0.2]),
            **columns,
        }
    )
    return PreparedDataset(
        SPEC, rows, pl.DataFrame({"user_id": np.arange(20)}), pl.DataFrame({"item_id": np.arange(9)})
    )


def test_a_given_split_is_honoured_row_by_row() -> None:
    """Law: train, test and the two halves of validation together are what the column says, whatever the seed."""
    prepared = given()
    said = prepared.interactions["split"].to_list()
    for seed in (0, 1):
        split = split_of(prepared, seed)
        assert [said[row] for row in split.train] == ["train"] * said.count("train")
        assert [said[row] for row in split.test] == ["test"] * said.count("test")
        both = np.concatenate([split.stop, split.gate])
        assert sorted(both.tolist()) == [row for row, part in enumerate(said) if part == "validation"]


def test_validation_is_halved_in_every_domain_and_label() -> None:
    """Law: in each domain and for each label, stop and gate differ by one row at most; the seed decides which rows."""
    prepared = given()
    split = split_of(prepared, 3)
    groups = list(prepared.interactions.select("domain_id", "label").iter_rows())
    stop, gate = Counter(groups[row] for row in split.stop), Counter(groups[row] for row in split.gate)
    assert max(abs(stop[group] - gate[group]) for group in {*stop, *gate}) <= 1
    assert np.array_equal(split.stop, split_of(prepared, 3).stop)
    assert not np.array_equal(split.stop, split_of(prepared, 4).stop)


def test_without_the_column_the_split_is_8_1_1() -> None:
    """Law: data that brings no split is split as before."""
    prepared = given()
    bare = PreparedDataset(SPEC, prepared.interactions.drop("split"), prepared.users, prepared.items)
    assert np.array_equal(split_of(bare, 2).train, split_rows(600, 2).train)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["train", "valid", "test"] * 200, "split 'valid'; it is one of train, validation, test"),
        (["train", None, "test"] * 200, "row 1: split is empty"),
        (["test"] * 600, "leaves no row to train on"),
    ],
)
def test_an_odd_split_is_refused(tmp_path: Path, parts: list[str], message: str) -> None:
    """Law: a folder whose split column holds anything but the three parts, or nothing to train on, does not load."""
    given(split=parts).write(tmp_path)
    with pytest.raises(PreparedError, match=message):
        PreparedDataset.load(tmp_path)


def test_a_given_split_survives_its_files(tmp_path: Path) -> None:
    """Law: what was written is what is read, and it splits alike."""
    given().write(tmp_path)
    read = PreparedDataset.load(tmp_path)
    assert np.array_equal(split_of(read, 0).gate, split_of(given(), 0).gate)
