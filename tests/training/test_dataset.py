"""Laws of encoding: rows as the service would encode them, fitted on training rows alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from features.context import encode_context, encode_domain
from features.fields import Division, Normalization
from features.rows import EncodedRows
from features.tables import FeatureTable
from features.vocabulary import Vocabulary
from training.dataset import EncodedDataset, encode, split_rows
from training.errors import PreparedError
from training.prepared import DatasetSpec, FieldSpec, PreparedDataset
from training.sources.synthetic import SyntheticWorld, synthetic

USERS = {"user_id": ["u3", "u1", "u2", "u4"], "plan": ["pro", None, "free", "unseen"], "age": [40.0, 20.0, None, 99.0]}
ITEMS = {"item_id": [30, 10, 20], "tags": [["b", "a"], [], None], "price": [3, 1, 2]}
SHOWN = {
    "user_id": ["u1", "u2", "u3", "u1", "u1"],
    "item_id": [10, 20, 30, 30, 10],
    "domain_id": ["theme-2", "theme-1", "theme-1", "theme-2", "theme-1"],
    "hour": [7, 8, 7, None, 9],
    "label": [1, 0, 1, 0, 1],
}
FIELDS = (
    FieldSpec(name="user", kind="sparse", of="user", column="user_id", id=True),
    FieldSpec(name="item", kind="sparse", of="item", column="item_id", id=True),
    FieldSpec(name="plan", kind="sparse", of="user", column="plan"),
    FieldSpec(name="age", kind="dense", of="user", column="age", normalization="standard"),
    FieldSpec(name="tags", kind="multi_hot", of="item", column="tags"),
    FieldSpec(name="price", kind="dense", of="item", column="price", normalization="min_max"),
    FieldSpec(name="hour", kind="sparse", of="context", column="hour"),
    FieldSpec(name="theme", kind="sparse", of="domain", column="domain_id"),
)
DIVISIONS = (
    Division(name="theme", natural=True, of="domain", domains=("theme-1", "theme-2")),
    Division(name="plan", natural=False, of="user", field="plan", rule="value", domains=("plan-free", "plan-pro")),
    Division(name="activity", natural=False, of="user", rule="count:1,2", domains=("cold", "warm", "hot")),
)
TRAIN = np.array([0, 1, 2, 3])


def prepared(**changes: Any) -> PreparedDataset:
    spec = DatasetSpec(name="tiny", fields=FIELDS, divisions=DIVISIONS).model_copy(update=changes)
    return PreparedDataset(spec, pl.DataFrame(SHOWN), pl.DataFrame(USERS), pl.DataFrame(ITEMS))


def lists_of(rows: EncodedRows, field: str) -> list[list[int]]:
    offsets = rows.arrays[f"{field}.offsets"]
    return [part.tolist() for part in np.split(rows.arrays[f"{field}.values"], offsets[1:-1])]


def test_rows_are_encoded_field_by_field() -> None:
    """Vocabulary rows in sorted order from 1; an empty cell is row 0, an empty or missing list is empty."""
    dataset = encode(prepared(), TRAIN, 4)
    rows = dataset.rows(np.arange(5))
    assert rows.arrays["user"].tolist() == [1, 2, 3, 1, 1]
    assert rows.arrays["item"].tolist() == [1, 2, 3, 3, 1]
    assert rows.arrays["plan"].tolist() == [0, 1, 2, 0, 0]
    assert rows.arrays["hour"].tolist() == [1, 2, 1, 0, 3]
    assert rows.arrays["theme"].tolist() == [2, 1, 1, 2, 1]
    assert lists_of(rows, "tags") == [[], [], [2, 1], [2, 1], []]
    assert dataset.label.tolist() == [1, 0, 1, 0, 1]
    assert dataset.user.tolist() == [0, 1, 2, 0, 0]
    assert dataset.probability is None


def test_a_value_that_no_row_has_is_out_of_vocabulary() -> None:
    """u4 and its plan are in the users table only: known to the table, without an embedding."""
    dataset = encode(prepared(), TRAIN, 4)
    gathered = dataset.users.gather(dataset.users.find(["u4"])).arrays
    assert gathered["user"].tolist() == [0]
    assert gathered["plan"].tolist() == [0]
    assert next(field for field in dataset.fields if field.name == "plan").vocabulary_size == 3


def test_normalization_is_fitted_on_training_rows_alone() -> None:
    """Row 4 and u4 are not trained on: neither moves a constant; `missing` is the training rows' encoded mean."""
    dataset = encode(prepared(), TRAIN, 4)
    fields = {field.name: field for field in dataset.fields}
    ages = np.array([20.0, 40.0, 20.0])  # of rows 0, 2 and 3; that of row 1 is missing
    assert fields["age"].normalization == Normalization(method="standard", shift=ages.mean(), scale=ages.std())
    assert fields["age"].missing == pytest.approx(0.0, abs=1e-7)
    assert fields["price"].normalization == Normalization(method="min_max", shift=1.0, scale=2.0)
    assert fields["price"].missing == pytest.approx(np.mean([0.0, 0.5, 1.0, 1.0]))
    rows = dataset.rows(np.arange(5)).arrays
    assert rows["age"].tolist() == pytest.approx(
        [(age - ages.mean()) / ages.std() for age in (20, ages.mean(), 40, 20, 20)], abs=1e-6
    )
    assert rows["price"].tolist() == [0.0, 0.5, 1.0, 1.0, 0.0]


def test_divisions_follow_their_rules() -> None:
    """By domain_id, by a value, by the number of training rows; a value without a domain belongs to none."""
    dataset = encode(prepared(), TRAIN, 4)
    assert dataset.division["theme"].tolist() == [1, 0, 0, 1, 0]
    assert dataset.division["plan"].tolist() == [-1, 0, 1, -1, -1]
    assert dataset.division["activity"].tolist() == [2, 1, 1, 2, 2]
    assert dataset.users.division("activity", dataset.users.find(["u1", "u4", "nobody"])).tolist() == [2, 0, -1]


def test_a_rule_that_counts_sees_training_rows_alone() -> None:
    """The same user is warm when only one of its rows is trained on."""
    assert encode(prepared(), np.array([0, 1]), 4).division["activity"].tolist() == [1, 1, 0, 1, 1]


def _as_served(dataset: EncodedDataset, row: dict[str, Any]) -> dict[str, list[Any]]:
    """One row as the service encodes it: from what the bundle's files hold and what a request brings."""
    vocabulary = Vocabulary.from_tensors(dataset.vocabulary.to_tensors(), dataset.fields)
    sides = []
    for of, table, key in (("user", dataset.users, "user_id"), ("item", dataset.items, "item_id")):
        fields = [field for field in dataset.fields if field.of == of]
        divisions = [division for division in dataset.divisions if division.of == of]
        read = FeatureTable.from_tensors(table.tensors(), fields, divisions)
        sides.append(read.gather(read.find([row[key]])))
    context = encode_context(dataset.fields, vocabulary, row)
    joined = sides[0].join(sides[1]).join(context).join(encode_domain(dataset.fields, vocabulary, row["domain_id"]))
    return {name: array.tolist() for name, array in joined.arrays.items()}


@pytest.mark.parametrize("source", ["tiny", "synthetic"])
def test_training_and_serving_encode_alike(source: str) -> None:
    """The rows that are trained on are those that the service makes of the exported files and a request."""
    world = (
        synthetic(SyntheticWorld(rows=20_000, users=100, items=50, domains=4)) if source == "synthetic" else prepared()
    )
    dataset = encode(world, split_rows(len(world.interactions), 0).train, 4)
    for position in range(0, len(world.interactions), max(1, len(world.interactions) // 50)):
        encoded = dataset.rows(np.array([position])).arrays
        served = _as_served(dataset, world.interactions.row(position, named=True))
        assert {name: array.tolist() for name, array in encoded.items()} == served


def test_a_split_is_disjoint_complete_and_decided_by_its_seed() -> None:
    """8:1:1 with the validation tenth halved; every row once; another seed gives another split."""
    split = split_rows(1005, 7)
    parts: list[NDArray[np.int64]] = [split.train, split.stop, split.gate, split.test]
    assert [len(part) for part in parts] == [805, 50, 50, 100]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1005))
    assert np.array_equal(split_rows(1005, 7).test, split.test)
    assert not np.array_equal(split_rows(1005, 8).test, split.test)


def test_a_prepared_folder_survives_its_files(tmp_path: Path) -> None:
    """What was written is what is read."""
    written = prepared()
    written.write(tmp_path / "data")
    read = PreparedDataset.load(tmp_path / "data")
    assert read.spec == written.spec
    assert read.interactions.equals(written.interactions)
    assert read.users.equals(written.users)
    assert read.items.equals(written.items)


def test_the_same_data_is_the_same_bytes(tmp_path: Path) -> None:
    """Runs name their data by its bytes, so writing twice must not change them."""
    for name in ("one", "two"):
        prepared().write(tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_an_unfinished_folder_is_refused(tmp_path: Path) -> None:
    """spec.json goes last: without it, or without a table, the error says which file and what to run."""
    with pytest.raises(PreparedError, match=r"spec\.json.*espalier data prepare"):
        PreparedDataset.load(tmp_path)
    prepared().write(tmp_path)
    (tmp_path / "users.parquet").unlink()
    with pytest.raises(PreparedError, match=r"users\.parquet is missing"):
        PreparedDataset.load(tmp_path)
    (tmp_path / "users.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(PreparedError, match=r"users\.parquet cannot be read"):
        PreparedDataset.load(tmp_path)


def test_an_unknown_key_of_the_spec_suggests_the_near_one(tmp_path: Path) -> None:
    """A misspelt key stops the load and names the one that was probably meant."""
    prepared().write(tmp_path)
    spec = json.loads((tmp_path / "spec.json").read_text())
    spec["fields"][0]["colum"] = spec["fields"][0].pop("column")
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    with pytest.raises(PreparedError, match="column"):
        PreparedDataset.load(tmp_path)


TABLES = {"interactions": SHOWN, "users": USERS, "items": ITEMS}


@pytest.mark.parametrize(
    ("table", "column", "values", "message"),
    [
        ("interactions", "label", [1, 0, 2, 0, 1], "label 2; a label is 0 or 1"),
        ("interactions", "user_id", ["u1", "u2", "u3", "u1", "u9"], "user_id 'u9', which the user table"),
        ("interactions", "item_id", [10, 20, 30, 30, None], "row 4: item_id is empty"),
        ("interactions", "domain_id", ["theme-1"] * 4 + ["theme-9"], "domain 'theme-9'"),
        ("interactions", "hour", None, "no column 'hour'"),
        ("users", "user_id", ["u1", "u1", "u2", "u3"], "user_id 'u1' twice"),
        ("users", "user_id", [1, 2, 3, 4], "user_id is Int64 in the user table"),
        ("items", "price", None, "no column 'price'"),
    ],
)
def test_tables_that_contradict_the_spec_are_refused(
    tmp_path: Path, table: str, column: str, values: list[Any] | None, message: str
) -> None:
    """A column that is missing, empty where it must not be, or names what is not there, is named."""
    prepared().write(tmp_path)
    columns: dict[str, Any] = dict(TABLES[table])
    columns.pop(column)
    if values is not None:
        columns[column] = values
    pl.DataFrame(columns).write_parquet(tmp_path / f"{table}.parquet")
    with pytest.raises(PreparedError, match=message):
        PreparedDataset.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "changes", "message"),
    [
        (FIELDS[2], {"kind": "dense"}, "not numbers"),
        (FIELDS[2], {"kind": "multi_hot"}, "not lists"),
        (FIELDS[3], {"kind": "sparse", "normalization": None}, "strings or integers"),
    ],
)
def test_a_field_that_its_column_cannot_fill_is_refused(
    field: FieldSpec, changes: dict[str, Any], message: str
) -> None:
    """The error names the field and what its column holds."""
    with pytest.raises(PreparedError, match=message):
        encode(prepared(fields=(field.model_copy(update=changes),)), TRAIN, 4)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("count:1", "one fewer than its 3 domains"),
        ("count:2,1", "rising"),
        ("count:a", "count:10,50"),
        ("odd", "unknown rule"),
    ],
)
def test_a_rule_that_cannot_be_applied_is_refused(rule: str, message: str) -> None:
    """The error names the division and shows what a rule looks like."""
    activity = DIVISIONS[2].model_copy(update={"rule": rule})
    with pytest.raises(PreparedError, match=message):
        encode(prepared(divisions=(DIVISIONS[0], activity)), TRAIN, 4)


@pytest.mark.parametrize(
    ("divisions", "message"),
    [
        (DIVISIONS[1:], "exactly one division must be natural"),
        ((DIVISIONS[0], DIVISIONS[1].model_copy(update={"domains": ("theme-1",)})), "in two divisions"),
    ],
)
def test_divisions_must_be_one_natural_and_disjoint(divisions: tuple[Division, ...], message: str) -> None:
    """A request names one natural domain, and a domain id names one division."""
    with pytest.raises(ValueError, match=message):
        DatasetSpec(name="tiny", fields=FIELDS, divisions=divisions)
