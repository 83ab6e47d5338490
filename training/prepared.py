"""The prepared data folder: three parquet tables and the spec that says what they hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

import polars as pl
from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic import Field as Key

from adapters_store.validation import explain
from features.fields import Division, FieldName
from training.arrays import RowsIn
from training.errors import PreparedError
from training.interactions import FrameRows, Interactions, ParquetRows

SPEC = "spec.json"
TABLES = ("interactions", "users", "items")
SPLIT = "split"
PARTS = ("train", "validation", "test")
_KEYS = ("user_id", "item_id", "domain_id")


class FieldSpec(BaseModel):
    """A field before any vocabulary or constant is known.

    Args:
        name, kind, of, id: as in `features.fields.Field`.
        column: its column in users.parquet, items.parquet or, for context, interactions.parquet; domain_id for domain.
        normalization: how a dense field is to be scaled; the constants are fitted on training rows.
        vectors: column of users.parquet or items.parquet with the given vectors of a sparse field, which are never
            trained; null is a trained table.
        buckets: rows of a hashed vocabulary: nothing is listed, values of one hash share a row; null lists every value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: FieldName
    kind: Literal["sparse", "multi_hot", "dense"]
    of: Literal["user", "item", "context", "domain"]
    column: str
    id: bool = False
    normalization: Literal["min_max", "standard"] | None = None
    vectors: str | None = None
    buckets: Annotated[int, Key(ge=1)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.vectors is not None and (self.kind != "sparse" or self.of not in ("user", "item")):
            raise ValueError(f"field {self.name!r}: given vectors belong to a sparse field of users or items")
        if self.buckets is not None and (self.kind == "dense" or self.vectors is not None):
            raise ValueError(f"field {self.name!r}: buckets belong to a sparse or multi-hot field with a trained table")
        return self

    @model_serializer(mode="wrap")
    def _as_ever(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A field without given vectors or buckets is written as it was before there were any."""
        content: dict[str, Any] = serialize(self)
        return {key: value for key, value in content.items() if key not in ("vectors", "buckets") or value is not None}


class DatasetSpec(BaseModel):
    """What spec.json holds.

    Args:
        schema_version: of this file; the key is `schema`.
        name: of the data set.
        fields: in the order in which the network reads them.
        divisions: exactly one of them natural; domain ids are unique over all.
        facts: counts and whatever else is known of the data, for reports.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: Literal[1] = Key(default=1, alias="schema")
    name: str
    fields: tuple[FieldSpec, ...]
    divisions: tuple[Division, ...]
    facts: dict[str, Any] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [field.name for field in self.fields]
        if len(set(names)) != len(names):
            raise ValueError(f"fields must have different names, got {names}")
        if [division.of for division in self.divisions if division.natural] != ["domain"]:
            raise ValueError("exactly one division must be natural, and it must be of domain")
        domains = [domain for division in self.divisions for domain in division.domains]
        if len(set(domains)) != len(domains):
            raise ValueError("a domain id stands in two divisions; ids must be unique over all divisions")
        return self

    @property
    def natural(self) -> Division:
        """The division that a request's domain_id names."""
        return next(division for division in self.divisions if division.natural)


class Prepared(Protocol):
    """Rated or shown rows, wherever they are, and what is known of users and items."""

    @property
    def spec(self) -> DatasetSpec:
        """Fields, divisions, facts."""
        ...

    @property
    def rows(self) -> Interactions:
        """The rows; see `PreparedDataset`."""
        ...

    @property
    def users(self) -> pl.DataFrame:
        """`user_id` and one column per user field or division."""
        ...

    @property
    def items(self) -> pl.DataFrame:
        """`item_id` and one column per item field or division."""
        ...


@dataclass(frozen=True)
class PreparedDataset:
    """Rated or shown rows in memory, and what is known of users and items.

    Args:
        spec: fields, divisions, facts.
        interactions: user_id, item_id, domain_id, label (0 or 1), context columns, for synthetic data probability,
            and `split` (train, validation or test) where the data comes with its own split.
        users: user_id and one column per user field or division.
        items: item_id and one column per item field or division.
    """

    spec: DatasetSpec
    interactions: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame

    @property
    def rows(self) -> Interactions:
        """The rows, part by part."""
        return FrameRows(self.interactions)

    @classmethod
    def load(cls, folder: Path) -> PreparedDataset:
        """Read a prepared folder and check it.

        Raises:
            PreparedError: a file is missing or unreadable, or does not hold what the spec says.
        """
        spec = _read_spec(folder / SPEC)
        prepared = cls(spec, *(_read_table(folder / f"{name}.parquet") for name in TABLES))
        prepared.check()
        return prepared

    def write(self, folder: Path) -> None:
        """Write the folder; spec.json goes last, so a folder with a spec is a whole one.

        Raises:
            PreparedError: the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / SPEC).unlink(missing_ok=True)
            for name, table in zip(TABLES, (self.interactions, self.users, self.items), strict=True):
                table.write_parquet(folder / f"{name}.parquet")
            _write_spec(folder, self.spec)
        except OSError as error:
            raise PreparedError(f"cannot write {folder}: {error.strerror}") from None

    def check(self) -> None:
        """Raise PreparedError unless the tables hold what the spec says."""
        check(self)


@dataclass(frozen=True)
class PreparedFolder:
    """The same, its rows left in their file.

    Args:
        spec: fields, divisions, facts.
        rows: columns as of `PreparedDataset.interactions`.
        users: user_id and one column per user field or division.
        items: item_id and one column per item field or division.
    """

    spec: DatasetSpec
    rows: Interactions
    users: pl.DataFrame
    items: pl.DataFrame

    @classmethod
    def open(cls, folder: Path) -> PreparedFolder:
        """Look at a prepared folder and check it, a part of its rows at a time.

        Raises:
            PreparedError: a file is missing or unreadable, or does not hold what the spec says.
        """
        spec, (rows, *tables) = _read_spec(folder / SPEC), TABLES
        prepared = cls(
            spec,
            ParquetRows.open(folder / f"{rows}.parquet"),
            *(_read_table(folder / f"{name}.parquet") for name in tables),
        )
        check(prepared)
        return prepared


def prepared_in(where: RowsIn, folder: Path) -> Prepared:
    """Open a prepared folder.

    Args:
        where: whether its rows are read into memory or left on the disk.
        folder: the folder.

    Raises:
        PreparedError: a file is missing or unreadable, or does not hold what the spec says.
    """
    return PreparedFolder.open(folder) if where == "disk" else PreparedDataset.load(folder)


def check(prepared: Prepared) -> None:
    """Hold the tables to what the spec says.

    Raises:
        PreparedError: they do not; it names table, column and row.
    """
    spec, rows = prepared.spec, prepared.rows
    tables = {"user": prepared.users, "item": prepared.items}
    for side, table in tables.items():
        _check_entities(side, table)
    needed = (*_KEYS, "label", *([SPLIT] if SPLIT in rows.columns else []))
    for column in needed:
        _require_column(rows.columns, "interactions", column)
    for field in spec.fields:
        name, own = f"{field.of} table", tables.get(field.of)
        _require_column(rows.columns if own is None else own.columns, name, field.column)
        if own is not None and field.column in _KEYS:
            _refuse_empty(own, name, field.column)
        if own is not None and field.vectors is not None:
            _require_column(own.columns, name, field.vectors)
            _refuse_empty(own, name, field.vectors)
    trained_on = SPLIT not in rows.columns
    for start, part in rows.parts(*needed):
        for column in needed:
            _refuse_empty(part, "interactions", column, start)
        for side, table in tables.items():
            _check_known(side, table, part)
        _check_values(spec, part)
        trained_on = trained_on or bool((part[SPLIT].cast(pl.String) == PARTS[0]).any())
    if not trained_on:
        raise PreparedError(f"column {SPLIT} of the interactions leaves no row to train on")


def _check_values(spec: DatasetSpec, part: pl.DataFrame) -> None:
    """Hold labels, domains and split of some rows to what they may be."""
    odd = part.filter(~pl.col("label").is_in([0, 1]))
    if len(odd):
        raise PreparedError(f"interactions hold label {odd['label'][0]}; a label is 0 or 1")
    unknown = part.filter(~pl.col("domain_id").is_in(list(spec.natural.domains)))
    if len(unknown):
        raise PreparedError(
            f"interactions hold domain {unknown['domain_id'][0]!r}; the natural division "
            f"{spec.natural.name!r} of {SPEC} does not list it"
        )
    if SPLIT in part.columns:
        parts = part[SPLIT].cast(pl.String)
        odd_parts = parts.filter(~parts.is_in(PARTS))
        if len(odd_parts):
            raise PreparedError(f"interactions hold {SPLIT} {odd_parts[0]!r}; it is one of {', '.join(PARTS)}")


def install(tables: Path, spec: DatasetSpec, folder: Path) -> None:
    """Make a prepared folder of tables that are too large to hold and were written elsewhere on the same disk.

    Args:
        tables: folder with interactions.parquet, users.parquet and items.parquet, which are moved.
        spec: what they hold.
        folder: the prepared folder; its spec goes last.

    Raises:
        PreparedError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SPEC).unlink(missing_ok=True)
        for name in TABLES:
            (tables / f"{name}.parquet").replace(folder / f"{name}.parquet")
        _write_spec(folder, spec)
    except OSError as error:
        raise PreparedError(f"cannot write {folder}: {error.strerror}") from None


def _write_spec(folder: Path, spec: DatasetSpec) -> None:
    text = json.dumps(spec.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False)
    (folder / SPEC).write_text(text + "\n", encoding="utf-8")


def _read_spec(path: Path) -> DatasetSpec:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PreparedError(f"cannot read {path}: {error.strerror}; run `espalier data prepare` first") from None
    except ValueError as error:
        raise PreparedError(f"{path} is no JSON: {error}") from None
    try:
        return DatasetSpec.model_validate(content)
    except ValidationError as error:
        raise PreparedError(f"{path}: {explain(error, DatasetSpec)}") from None


def _read_table(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except FileNotFoundError:
        raise PreparedError(f"{path} is missing; run `espalier data prepare` again") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise PreparedError(f"{path} cannot be read: {error}; run `espalier data prepare` again") from None


def _require_column(columns: Sequence[str], name: str, column: str) -> None:
    if column not in columns:
        raise PreparedError(f"{name} has no column {column!r}; it has {list(columns)}")


def _refuse_empty(table: pl.DataFrame, name: str, column: str, start: int = 0) -> None:
    """Refuse a column with an empty value; `start` is the place of the first row."""
    if table[column].null_count():
        raise PreparedError(f"{name} row {start + (table[column].is_null().arg_max() or 0)}: {column} is empty")


def _check_entities(side: str, table: pl.DataFrame) -> None:
    key, name = f"{side}_id", f"{side} table"
    _require_column(table.columns, name, key)
    _refuse_empty(table, name, key)
    if table[key].n_unique() != len(table):
        raise PreparedError(f"{name} holds {key} {table[key].filter(table[key].is_duplicated())[0]!r} twice")


def _check_known(side: str, table: pl.DataFrame, part: pl.DataFrame) -> None:
    """Hold some rows to name users or items that their table has."""
    key = f"{side}_id"
    if table[key].dtype != part[key].dtype:
        raise PreparedError(f"{key} is {table[key].dtype} in the {side} table and {part[key].dtype} elsewhere")
    unknown = part.join(table, on=key, how="anti", maintain_order="left")
    if len(unknown):
        raise PreparedError(f"interactions name {key} {unknown[key][0]!r}, which the {side} table does not hold")


def domain_facts(interactions: pl.DataFrame | pl.LazyFrame) -> list[dict[str, Any]]:
    """Rows, users, items and share of positive labels of each natural domain, in the order of their ids."""
    return (
        interactions.lazy()
        .group_by("domain_id")
        .agg(
            rows=pl.len(),
            users=pl.col("user_id").n_unique(),
            items=pl.col("item_id").n_unique(),
            positive=pl.col("label").mean(),
        )
        .sort("domain_id")
        .collect(engine="streaming")
        .to_dicts()
    )


def dataset_facts(interactions: pl.DataFrame, **more: Any) -> dict[str, Any]:
    """Rows, users, items and share of positive labels of a whole set and of each domain, and what else is known."""
    return {
        "rows": len(interactions),
        "users": interactions["user_id"].n_unique(),
        "items": interactions["item_id"].n_unique(),
        "positive": interactions["label"].mean(),
        "domains": domain_facts(interactions),
        **more,
    }
