"""The prepared data folder: three parquet tables and the spec that says what they hold."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

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
from training.errors import PreparedError

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


@dataclass(frozen=True)
class PreparedDataset:
    """Rated or shown rows, and what is known of users and items.

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
        for column in (*_KEYS, "label"):
            _require(self.interactions, "interactions", column)
        for side, table in (("user", self.users), ("item", self.items)):
            _check_entities(side, table, self.interactions)
        tables = {"user": self.users, "item": self.items}
        for field in self.spec.fields:
            table = tables.get(field.of, self.interactions)
            _require(table, f"{field.of} table", field.column, nulls=field.column not in _KEYS)
            if field.vectors is not None:
                _require(table, f"{field.of} table", field.vectors)
        odd = self.interactions.filter(~pl.col("label").is_in([0, 1]))
        if len(odd):
            raise PreparedError(f"interactions hold label {odd['label'][0]}; a label is 0 or 1")
        self._check_domains()
        if SPLIT in self.interactions.columns:
            self._check_split()

    def _check_domains(self) -> None:
        unknown = self.interactions.filter(~pl.col("domain_id").is_in(list(self.spec.natural.domains)))
        if len(unknown):
            raise PreparedError(
                f"interactions hold domain {unknown['domain_id'][0]!r}; the natural division "
                f"{self.spec.natural.name!r} of {SPEC} does not list it"
            )

    def _check_split(self) -> None:
        _require(self.interactions, "interactions", SPLIT)
        parts = self.interactions[SPLIT].cast(pl.String)
        odd = parts.filter(~parts.is_in(PARTS))
        if len(odd):
            raise PreparedError(f"interactions hold {SPLIT} {odd[0]!r}; it is one of {', '.join(PARTS)}")
        if not (parts == PARTS[0]).any():
            raise PreparedError(f"column {SPLIT} of the interactions leaves no row to train on")


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


def _require(table: pl.DataFrame, name: str, column: str, *, nulls: bool = False) -> None:
    if column not in table.columns:
        raise PreparedError(f"{name} has no column {column!r}; it has {table.columns}")
    if not nulls and table[column].null_count():
        raise PreparedError(f"{name} row {table[column].is_null().arg_max()}: {column} is empty")


def _check_entities(side: str, table: pl.DataFrame, interactions: pl.DataFrame) -> None:
    key = f"{side}_id"
    _require(table, f"{side} table", key)
    if table[key].n_unique() != len(table):
        raise PreparedError(f"{side} table holds {key} {table[key].filter(table[key].is_duplicated())[0]!r} twice")
    if table[key].dtype != interactions[key].dtype:
        raise PreparedError(f"{key} is {table[key].dtype} in the {side} table and {interactions[key].dtype} elsewhere")
    unknown = interactions.join(table, on=key, how="anti", maintain_order="left")
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
