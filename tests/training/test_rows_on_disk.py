"""`rows: disk`: rows that stay in their file and are encoded part by part are those that memory would have held."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from features.fields import Division
from features.rows import EncodedRows
from tests.training.small import contents, small_config
from training.arrays import InMemory, OnDisk, RowsIn
from training.dataset import EncodedDataset, encode, split_of
from training.errors import PreparedError
from training.frameworks.config import MamdrConfig
from training.frameworks.loaded import learned_from
from training.frameworks.run import train_mamdr
from training.pipeline import train, train_all
from training.prepared import DatasetSpec, FieldSpec, PreparedDataset, PreparedFolder, prepared_in

ROWS, USERS, ITEMS = 500, 40, 25
FIELDS = (
    FieldSpec(name="user", kind="sparse", of="user", column="user_id", id=True),
    FieldSpec(name="item", kind="sparse", of="item", column="item_id", id=True),
    FieldSpec(name="age", kind="dense", of="user", column="age", normalization="standard"),
    FieldSpec(name="tags", kind="multi_hot", of="item", column="tags"),
    FieldSpec(name="hour", kind="sparse", of="context", column="hour"),
    FieldSpec(name="query", kind="sparse", of="context", column="query", buckets=7),
    FieldSpec(name="shown", kind="multi_hot", of="context", column="shown"),
    FieldSpec(name="waited", kind="dense", of="context", column="waited", normalization="standard"),
    FieldSpec(name="price", kind="dense", of="context", column="price", normalization="min_max"),
    FieldSpec(name="place", kind="dense", of="context", column="place"),
    FieldSpec(name="theme", kind="sparse", of="domain", column="domain_id"),
)
DIVISIONS = (
    Division(name="theme", natural=True, of="domain", domains=("theme-1", "theme-2", "theme-3")),
    Division(name="activity", natural=False, of="user", rule="count:5,9", domains=("cold", "warm", "hot")),
    Division(name="hour", natural=False, of="context", field="hour", rule="value", domains=("hour-1", "hour-2")),
)


def some(draw: np.random.Generator, values: list[Any], share: float) -> list[Any]:
    """The values, a share of them empty."""
    return [None if draw.random() < share else value for value in values]


def world(split: bool = True) -> PreparedDataset:
    """Random rows with everything that a row may have, and gaps in it."""
    draw = np.random.default_rng(3)
    rows: dict[str, Any] = {
        "user_id": [f"u{i}" for i in draw.integers(0, USERS, ROWS)],
        "item_id": draw.integers(0, ITEMS, ROWS),
        "domain_id": [f"theme-{i}" for i in draw.integers(1, 4, ROWS)],
        "label": draw.integers(0, 2, ROWS),
        "hour": some(draw, draw.integers(0, 4, ROWS).tolist(), 0.1),
        "query": some(draw, [f"q{i}" for i in draw.integers(0, 90, ROWS)], 0.1),
        "shown": some(draw, [draw.integers(0, 30, draw.integers(0, 5)).tolist() for _ in range(ROWS)], 0.1),
        "waited": some(draw, draw.normal(5, 2, ROWS).tolist(), 0.1),
        "price": some(draw, draw.integers(0, 99, ROWS).tolist(), 0.1),
        "place": draw.random(ROWS),
        "probability": draw.random(ROWS),
    }
    if split:
        rows["split"] = draw.choice(["train", "validation", "test"], ROWS, p=(0.6, 0.2, 0.2)).tolist()
    users = {"user_id": [f"u{i}" for i in range(USERS)], "age": some(draw, draw.normal(40, 9, USERS).tolist(), 0.1)}
    items = {
        "item_id": np.arange(ITEMS),
        "tags": [draw.integers(0, 9, draw.integers(0, 4)).tolist() for _ in range(ITEMS)],
    }
    spec = DatasetSpec(name="world", fields=FIELDS, divisions=DIVISIONS)
    return PreparedDataset(spec, pl.DataFrame(rows), pl.DataFrame(users), pl.DataFrame(items))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 64 rows, so that 500 rows are eight of them."""
    for module in ("interactions", "encoding", "dataset"):
        monkeypatch.setattr(f"training.{module}.PART_ROWS", 64)


def arrays_of(dataset: EncodedDataset) -> Iterator[tuple[str, NDArray[Any]]]:
    """Every array of a data set, named."""
    for field in fields_of(dataset):
        value = getattr(dataset, field.name)
        if isinstance(value, np.ndarray):
            yield field.name, value
        elif field.name in ("division", "given"):
            yield from ((f"{field.name}.{name}", array) for name, array in value.items())
        elif field.name == "multi_hot":
            for name, (lists, entity) in value.items():
                yield from ((f"{name}.lists", lists), (f"{name}.entity", entity))
        elif field.name in ("users", "items"):
            columns: EncodedRows = value.columns
            yield from ((f"{field.name}.{name}", array) for name, array in columns.arrays.items())


def differing(one: EncodedDataset, other: EncodedDataset) -> list[str]:
    """Names of what is not the same, bit for bit."""
    ours, theirs = dict(arrays_of(one)), dict(arrays_of(other))
    assert ours.keys() == theirs.keys()
    found = [name for name, array in ours.items() if not np.array_equal(array, theirs[name], equal_nan=True)]
    found += [name for name, array in ours.items() if array.dtype != theirs[name].dtype]
    return found + (["fields"] if one.fields != other.fields else [])


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("split", [False, True])
def test_rows_on_disk_are_those_of_memory(tmp_path: Path, split: bool) -> None:
    """Law: split, vocabulary, constants and every encoded row are the same bits, part by part or not on the disk."""
    given = world(split)
    given.write(tmp_path / "data")
    opened = PreparedFolder.open(tmp_path / "data")
    splits = [split_of(one, 1) for one in (given, opened)]
    for name in ("train", "stop", "gate", "test"):
        assert np.array_equal(*(getattr(one, name) for one in splits))
    memory = encode(given, splits[0].train, 4)
    assert len(list(arrays_of(memory))) > 15
    assert not differing(memory, encode(opened, splits[1].train, 4, OnDisk(tmp_path / "state")))


def test_parts_change_no_more_than_last_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: how many rows a part has decides the last bits of fitted constants, and nothing else."""
    given = world()
    whole = encode(given, split_of(given, 1).train, 4)
    for module in ("interactions", "encoding", "dataset"):
        monkeypatch.setattr(f"training.{module}.PART_ROWS", 64)
    parts = encode(given, split_of(given, 1).train, 4)
    assert set(differing(whole, parts)) <= {"dense", "fields"}
    assert np.allclose(whole.dense, parts.dense, rtol=1e-6, atol=1e-6)


def test_files_have_no_name_and_go_with_their_arrays(tmp_path: Path) -> None:
    """Law: what lies on the disk leaves nothing in the folder, and takes its room from the start."""
    folder = tmp_path / "state"
    array = OnDisk(folder).new((300, 4), np.float32)
    array[:] = 7.0
    assert list(folder.iterdir()) == []
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]
    assert len(mapped) == 1
    assert mapped[0].endswith("(deleted)")
    del array
    assert str(folder) not in Path("/proc/self/maps").read_text()
    assert OnDisk(folder).new((0, 4), np.float32).shape == (0, 4)


def test_a_disk_without_room_is_an_error_before_anything_is_laid_out(tmp_path: Path) -> None:
    """Law: where the files cannot take the rows, a message says how many MiB, where, and what to do."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    try:
        with pytest.raises(PreparedError, match=r"cannot lay 8 MiB .* in .*state.*rows: memory"):
            OnDisk(tmp_path / "state").new((2**20, 2), np.float32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (tmp_path / "file").write_text("")
    with pytest.raises(PreparedError, match="choose another --out"):
        OnDisk(tmp_path / "file" / "state").new((8,), np.float32)


@pytest.mark.parametrize("packed", [None, {"domains": 2}])
def test_a_run_learns_the_same_from_the_disk(small_world: Path, tmp_path: Path, packed: Any) -> None:
    """Law: `rows: disk` gives the bytes of `rows: memory`, and leaves no file of its own."""
    found = []
    for where in ("memory", "disk"):
        out = train_all(small_config(small_world, rows=where, packed=packed), tmp_path / where)
        found.append(contents(out))
    assert found[0] == found[1]
    names = [
        {str(path.relative_to(tmp_path / where)) for path in (tmp_path / where).rglob("*")}
        for where in ("memory", "disk")
    ]
    assert names[0] == names[1]
    # a run of one is resumed with the other: where rows lie decides nothing
    train("fuse", small_config(small_world, rows="memory", packed=packed), tmp_path / "disk", resume=True)


def test_mamdr_learns_the_same_from_the_disk(small_world: Path, tmp_path: Path) -> None:
    """Law: the same of `espalier train mamdr`."""
    found = []
    for where in ("memory", "disk"):
        config = MamdrConfig.model_validate(
            {
                "data": small_world,
                "rows": where,
                "network": {"width": 4, "tower": [8]},
                "epochs": 2,
                "batch_rows": 512,
                "left_out": ["theme-02"],
                "bootstrap_draws": 100,
            }
        )
        found.append(contents(train_mamdr(config, tmp_path / where)))
    assert found[0]
    assert found[0] == found[1]


@pytest.mark.usefixtures("small_parts")
def test_domains_are_left_out_of_every_part(tmp_path: Path) -> None:
    """Law: rows of a domain that is left out teach nothing, in whichever part of the file they stand."""
    given = world()
    given.write(tmp_path)
    split = split_of(given, 1)
    domain = given.interactions["domain_id"].to_numpy()
    for one in (given, PreparedFolder.open(tmp_path)):
        learned = learned_from(one, split, ["theme-2"])
        assert set(learned) == {row for row in split.train if domain[row] != "theme-2"}


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_without_rows_what_is_wrong_is_told_all_the_same(tmp_path: Path, where: RowsIn) -> None:
    """Law: an empty set is encoded, or refused by what a column is, and by no error of a library."""
    given = world(split=False)
    empty = PreparedDataset(given.spec, given.interactions.clear(), given.users, given.items)
    empty.write(tmp_path)
    found = encode(prepared_in(where, tmp_path), np.empty(0, np.int64), 4)
    assert found.sparse.shape == (0, 5)
    assert {field.name: field.vocabulary_size for field in found.fields if field.kind == "sparse"}["hour"] == 1
    wrong = empty.interactions.with_columns(pl.lit("x").alias("waited"))
    PreparedDataset(given.spec, wrong, given.users, given.items).write(tmp_path)
    with pytest.raises(PreparedError, match="'waited', which holds String, not numbers"):
        encode(prepared_in(where, tmp_path), np.empty(0, np.int64), 4)


@pytest.mark.usefixtures("small_parts")
def test_a_file_that_is_replaced_meanwhile_is_refused(tmp_path: Path) -> None:
    """Law: parts of one file are never taken for parts of another."""
    given = world()
    given.write(tmp_path)
    parts = PreparedFolder.open(tmp_path).rows.parts("label")
    next(parts)
    given.write(tmp_path)
    with pytest.raises(PreparedError, match=r"interactions.parquet was replaced"):
        next(parts)


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("column", "place", "value", "fault"),
    [
        ("label", 300, None, "interactions row 300: label is empty"),
        ("label", 300, 2, "interactions hold label 2"),
        ("domain_id", 300, "theme-9", "interactions hold domain 'theme-9'"),
        ("user_id", 300, "u99", "interactions name user_id 'u99'"),
        ("split", 300, "later", "interactions hold split 'later'"),
        ("waited", 300, float("inf"), "'waited' holds an infinite value"),
    ],
)
def test_what_is_wrong_in_a_later_part_is_named(
    tmp_path: Path, where: RowsIn, column: str, place: int, value: Any, fault: str
) -> None:
    """Law: a fault anywhere in the file is refused as it is in memory, by table, row and column."""
    given = world()
    values = given.interactions[column].to_list()
    values[place] = value
    rows = given.interactions.with_columns(pl.Series(column, values))
    PreparedDataset(given.spec, rows, given.users, given.items).write(tmp_path)
    with pytest.raises(PreparedError, match=fault):
        encode(prepared_in(where, tmp_path), np.arange(100), 4)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Law: without interactions.parquet, or with another file in its place, the message says what to run."""
    world().write(tmp_path)
    path = tmp_path / "interactions.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(PreparedError, match=r"interactions.parquet cannot be read.*espalier data prepare"):
        PreparedFolder.open(tmp_path)
    path.unlink()
    with pytest.raises(PreparedError, match=r"interactions.parquet is missing; run `espalier data prepare`"):
        PreparedFolder.open(tmp_path)


def test_memory_is_the_default(small_world: Path) -> None:
    """Law: a configuration that says nothing keeps rows in memory; another word is refused."""
    assert small_config(small_world).rows == "memory"
    assert isinstance(InMemory().new((3,), np.int32), np.ndarray)
    with pytest.raises(ValueError, match="rows"):
        small_config(small_world, rows="tape")
