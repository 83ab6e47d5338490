"""Files of rows: what is read, what is refused and with which words, and what each row serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from features.fields import Division, Field
from training.dataset import Split
from training.newcomer.errors import BadRows
from training.newcomer.rows import NewRows, read_rows, split_rows

CONTEXT = (
    Field(name="hour", kind="sparse", of="context", vocabulary_size=25, width=4),
    Field(name="age", kind="dense", of="context"),
    Field(name="seen", kind="multi_hot", of="context", vocabulary_size=9, width=4),
)
COLUMNS: dict[str, Any] = {
    "user_id": [7, 8, 7],
    "item_id": ["a", "b", "c"],
    "label": [1, 0, 1],
    "hour": [3, None, 4],
    "age": [0.5, 1.5, None],
    "seen": [[1, 2], [], None],
    "more": [1, 2, 3],
}


def read(folder: Path, columns: dict[str, Any]) -> NewRows:
    pl.DataFrame(columns).write_parquet(folder / "rows.parquet")
    return read_rows(folder / "rows.parquet", "vegan", CONTEXT)


def labelled(positives: int, negatives: int, split: list[str] | None = None) -> NewRows:
    label = np.array([1] * positives + [0] * negatives, np.float32)
    frame = pl.DataFrame({"user_id": [str(i) for i in range(len(label))], "item_id": ["a"] * len(label)})
    return NewRows(frame if split is None else frame.with_columns(split=pl.Series(split)), label)


def taken(rows: NewRows, positions: list[int]) -> NewRows:
    """Some rows of a file, in this order."""
    return NewRows(rows.frame[positions], rows.label[positions])


def parts(split: Split, users: list[str]) -> dict[str, str]:
    """User to what that user's row serves."""
    named = {"train": split.train, "stop": split.stop, "gate": split.gate, "test": split.test}
    return {users[row]: part for part, positions in named.items() for row in positions.tolist()}


@pytest.mark.parametrize("label", [[1, 0, 1], [True, False, True], [1.0, 0.0, 1.0]])
def test_ids_become_texts_and_labels_numbers(tmp_path: Path, label: list[Any]) -> None:
    """Law: an integer id is its decimal text, labels of any type are 0 or 1, columns of no field are left out."""
    rows = read(tmp_path, {**COLUMNS, "label": label})
    assert rows.frame["user_id"].to_list() == ["7", "8", "7"]
    assert rows.label.tolist() == [1.0, 0.0, 1.0]
    assert rows.frame.columns == ["user_id", "item_id", "hour", "age", "seen"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, "rows.parquet has no column 'label'; it has 'user_id', 'item_id', 'hour'"),
        ({"hour": None}, "rows.parquet has no column 'hour'"),
        ({"label": [1, 0, 2]}, "rows.parquet row 2: label is 2; a label is 0 or 1"),
        ({"label": [1, None, 0]}, "rows.parquet row 1: label is empty; a label is 0 or 1"),
        ({"label": [1.0, 0.5, 0.0]}, "rows.parquet row 1: label is 0.5"),
        ({"label": ["1", "0", "1"]}, "label holds String"),
        ({"label": [1, 1, 1]}, "all 3 labels are 1; a domain is learned from rows of both"),
        ({"label": [0, 0, 0]}, "all 3 labels are 0"),
        ({"user_id": [7, None, 8]}, "rows.parquet row 1: user_id is empty"),
        ({"item_id": [1.5, 2.5, 3.5]}, "item_id holds Float64; ids are strings or integers"),
        ({"age": ["x", "y", "z"]}, "age holds String; field 'age' takes numbers"),
        ({"hour": [0.5, 1.5, 2.5]}, "hour holds Float64; field 'hour' takes strings or integers"),
        ({"seen": [1, 2, 3]}, "seen holds Int64; field 'seen' takes lists"),
        ({"domain_id": ["vegan", "other", None]}, "row 1 is of domain 'other': give the rows of 'vegan' alone"),
        ({"split": ["train", "test", "dev"]}, "row 2: split is 'dev'; it is one of train, validation, test"),
    ],
)
def test_a_wrong_file_is_refused_naming_column_and_row(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Law: what is wrong is said with the place where it stands."""
    columns = {name: values for name, values in {**COLUMNS, **changes}.items() if values is not None}
    with pytest.raises(BadRows) as refused:
        read(tmp_path, columns)
    assert message in str(refused.value)


def test_an_empty_file_and_one_that_is_no_parquet_are_told_apart(tmp_path: Path) -> None:
    """Law: no rows, and no table, are different faults."""
    with pytest.raises(BadRows, match="holds no rows"):
        read(tmp_path, {name: values[:0] for name, values in COLUMNS.items()})
    (tmp_path / "rows.parquet").write_text("user_id,item_id,label\n")
    with pytest.raises(BadRows, match="cannot be read as parquet"):
        read_rows(tmp_path / "rows.parquet", "vegan", CONTEXT)


def test_a_drawn_split_serves_every_row_once_and_both_labels_alike() -> None:
    """Law: train, stop and gate are disjoint and all rows; of each label about a tenth is in each half (five standard
    deviations of a draw)."""
    rows = labelled(1000, 3000)
    split = split_rows(rows, 0.2, seed=3)
    assert np.array_equal(np.sort(np.concatenate([split.train, split.stop, split.gate])), np.arange(4000))
    assert len(split.test) == 0
    for part in (split.stop, split.gate):
        assert int(rows.label[part].sum()) == pytest.approx(100, abs=5 * 90**0.5)
        assert len(part) == pytest.approx(400, abs=5 * 360**0.5)


def test_a_row_serves_the_same_whatever_comes_with_it() -> None:
    """Law: with more rows, in another order and with another seed, each row serves what it served: no domain that is
    trained on is judged by rows that it was trained on."""
    rows = labelled(100, 300)
    users = rows.frame["user_id"].to_list()
    whole = parts(split_rows(rows, 0.2, seed=0), users)
    order = np.random.default_rng(1).permutation(400)[:300].tolist()
    some = taken(rows, order)
    for seed in (0, 7):
        found = parts(split_rows(some, 0.2, seed), some.frame["user_id"].to_list())
        assert found == {user: whole[user] for user in found}
    assert set(whole.values()) == {"train", "stop", "gate"}


def test_a_smaller_validation_is_a_part_of_a_larger_one() -> None:
    """Law: halves of another share never mix, and what a larger share trains on a smaller one trains on too."""
    rows = labelled(200, 200)
    small, large = (split_rows(rows, share, seed=0) for share in (0.1, 0.4))
    assert set(small.stop.tolist()) < set(large.stop.tolist())
    assert set(small.gate.tolist()) < set(large.gate.tolist())


@pytest.mark.parametrize("share", [0.2, 0.999])
def test_a_label_of_few_rows_is_trained_on(share: float) -> None:
    """Law: whatever the draw, one row of each label at least is left to train on."""
    for start in range(30):
        frame = pl.DataFrame({"user_id": [f"u{start}", f"v{start}", f"w{start}"], "item_id": ["a", "b", "c"]})
        rows = NewRows(frame, np.array([1, 0, 0], np.float32))
        assert set(rows.label[split_rows(rows, share, seed=0).train].tolist()) == {0.0, 1.0}


def test_a_given_split_is_kept_and_its_validation_halved() -> None:
    """Law: rows serve what the column says; stop and gate differ by one row of a label at most."""
    given = (["train", "validation", "validation", "test"] * 10) + (["validation", "train", "test", "train"] * 10)
    rows = labelled(40, 40, given)
    split = split_rows(rows, 0.5, seed=0)
    named = np.array(given)
    assert set(named[split.train]) == {"train"}
    assert set(named[split.test]) == {"test"}
    assert set(named[np.concatenate([split.stop, split.gate])]) == {"validation"}
    assert sum(map(len, (split.train, split.stop, split.gate, split.test))) == 80
    assert [int(rows.label[part].sum()) for part in (split.stop, split.gate)] == [10, 10]


def test_rows_that_leave_one_label_to_train_on_are_refused() -> None:
    """Law: a split without both labels among the training rows is told, not trained."""
    with pytest.raises(BadRows, match="the 1 rows that are left to train on have one label only"):
        split_rows(labelled(1, 1, ["train", "test"]), 0.2, seed=0)


def test_rows_name_their_domain_of_a_division_of_context(tmp_path: Path) -> None:
    """Law: the column that requests name, by the field if the division has one; what is no domain is none; a file
    without the column is refused with what it is for. Divisions of users and items need none."""
    daytime = Division(name="daytime", natural=False, of="context", field="part", domains=("day", "night"))
    shelf = Division(name="shelf", natural=False, of="item", domains=("shelf-x",))
    frame = pl.DataFrame({**COLUMNS, "part": ["night", None, "noon"]})
    frame.write_parquet(tmp_path / "rows.parquet")
    found = read_rows(tmp_path / "rows.parquet", "vegan", CONTEXT, [daytime, shelf]).domains
    assert {name: column.tolist() for name, column in found.items()} == {"daytime": [1, -1, -1]}
    frame.drop("part").write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(BadRows, match="no column 'part': the domain of division 'daytime' that each row lies in"):
        read_rows(tmp_path / "rows.parquet", "vegan", CONTEXT, [daytime, shelf])
