"""The rows of a new domain, out of one parquet file.

    user_id, item_id   strings or integers, never empty
    label              0 or 1 (or true and false), both of them somewhere
    <field>            one column for each field of context; empty is missing
    <division>         the domain of each row in an auxiliary division of context that the live adapter fuses: the name
                       that requests bring (by its field, if it names one); any other value is none
    domain_id          optional; the new domain's id in every row
    split              optional: train, validation or test; rows of test are scored and reported only

Other columns are not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.fields import Division, Field
from training.builders.draws import numbers, starts, words_of
from training.dataset import Split
from training.newcomer.errors import BadRows
from training.prepared import PARTS, SPLIT

KEYS = ("user_id", "item_id")
_SPLIT_STREAM = 2_0_1
"""Second word of the seed that halves given rows, so that no other consumer of the seed has its stream."""
_PURPOSE = "what a row of a new domain serves"
_DIGITS = 53
"""Bits of a word that make a share; the lowest one is not among them and chooses the half."""


@dataclass(frozen=True)
class NewRows:
    """n checked rows.

    Args:
        frame: user_id and item_id as strings, the columns of context, and `split` where the file has it.
        label: float32 (n,), 0 or 1.
        domains: auxiliary division of context to the position of each row's domain in it, int32 (n,); -1 is none.
    """

    frame: pl.DataFrame
    label: NDArray[np.float32]
    domains: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.label)


def read_rows(path: Path, domain: str, context: Sequence[Field], divisions: Sequence[Division] = ()) -> NewRows:
    """Read and check a file of rows.

    Args:
        path: of the parquet file.
        domain: the new domain's id.
        context: fields that each row brings itself.
        divisions: auxiliary ones that the live adapter fuses; those of context have a column.

    Raises:
        BadRows: it cannot be read, lacks a column, is empty, or holds what no row may; column and row are named.
    """
    frame = _read(path)
    name = path.name
    wanted = [*KEYS, "label", *(one.name for one in context)]
    missing = [column for column in wanted if column not in frame.columns]
    if missing:
        raise BadRows(f"{name} has no column {missing[0]!r}; it has {', '.join(map(repr, frame.columns)) or 'none'}")
    if len(frame) == 0:
        raise BadRows(f"{name} holds no rows: a domain is learned from one row at least of each label")
    _check_domain(frame, name, domain)
    kept = [_ids(frame[key], name) for key in KEYS] + [_context(frame[one.name], one, name) for one in context]
    if SPLIT in frame.columns:
        kept.append(_split_column(frame[SPLIT], name))
    named = {one.name: _domains(frame, one, name) for one in divisions if one.of == "context"}
    return NewRows(pl.DataFrame(kept), _labels(frame["label"], name), named)


def split_rows(rows: NewRows, validation: float, seed: int) -> Split:
    """Choose what each row serves: as the column `split` says, else as its user and item decide.

    A drawn row serves the same whatever rows it comes with and whatever the seed is, so that a domain can be trained
    on with more rows, and is not judged by some that it was trained on. The halves stay apart when `validation`
    changes, too.

    Args:
        rows: n of them.
        validation: share that is not trained on; about half of it stops the training, the rest is the gate's.
        seed: decides how given validation rows are halved, alike for both labels; it draws nothing else.

    Returns:
        Sorted positions of each part.

    Raises:
        BadRows: the rows to train on have one label only.
    """
    n, given = len(rows), SPLIT in rows.frame.columns
    stop, gate = _halved(rows, seed) if given else _drawn(rows, validation)
    test = np.flatnonzero((rows.frame[SPLIT] == PARTS[2]).to_numpy()) if given else np.empty(0, np.int64)
    train = np.setdiff1d(np.arange(n), np.concatenate([stop, gate, test]))
    if len(np.unique(rows.label[train])) < 2:
        raise BadRows(f"the {len(train)} rows that are left to train on have one label only: give more rows")
    return Split(train.astype(np.int64), stop, gate, test.astype(np.int64))


def _drawn(rows: NewRows, validation: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The two halves of validation, each row drawn by its user and item alone."""
    users, items = (words_of(rows.frame[key].to_list()) for key in KEYS)
    words = numbers(starts(0, _PURPOSE, "", users), items.view(np.int64))
    held = (words >> np.uint64(64 - _DIGITS)) * 2.0**-_DIGITS < validation
    for value in (0, 1):
        mine = np.flatnonzero(rows.label == value)
        if len(mine) and held[mine].all():  # a label of so few rows that nothing of it would be trained on
            held[mine[np.argmax(words[mine])]] = False
    first = words % np.uint64(2) == 0
    return np.flatnonzero(held & first), np.flatnonzero(held & ~first)


def _halved(rows: NewRows, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The two halves of the validation rows that a file names, at random, alike for both labels."""
    shuffled = np.random.default_rng([seed, _SPLIT_STREAM]).permutation(len(rows))
    held = shuffled[(rows.frame[SPLIT] == PARTS[1]).to_numpy()[shuffled]]
    each = [held[rows.label[held] == value] for value in (0, 1)]
    stop, gate = (np.sort(np.concatenate([mine[half::2] for mine in each])) for half in (0, 1))
    return stop.astype(np.int64), gate.astype(np.int64)


def _read(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadRows(f"{path.name} cannot be read as parquet: {error}") from None


def _check_domain(frame: pl.DataFrame, name: str, domain: str) -> None:
    if "domain_id" not in frame.columns:
        return
    row = _first(frame["domain_id"].cast(pl.String).ne_missing(domain))
    if row is not None:
        raise BadRows(f"{name} row {row} is of domain {frame['domain_id'][row]!r}: give the rows of {domain!r} alone")


def _ids(column: pl.Series, name: str) -> pl.Series:
    if not (column.dtype.is_integer() or column.dtype == pl.String):
        raise BadRows(f"{name}: {column.name} holds {column.dtype}; ids are strings or integers")
    row = _first(column.is_null())
    if row is not None:
        raise BadRows(f"{name} row {row}: {column.name} is empty")
    return column.cast(pl.String)


def _labels(column: pl.Series, name: str) -> NDArray[np.float32]:
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        raise BadRows(f"{name}: label holds {column.dtype}; a label is 0 or 1")
    row = _first(~column.cast(pl.Float64).is_in([0.0, 1.0]).fill_null(False))
    if row is not None:
        found = "empty" if column[row] is None else str(column[row])
        raise BadRows(f"{name} row {row}: label is {found}; a label is 0 or 1")
    label = column.cast(pl.Float32).to_numpy().astype(np.float32)
    if label.min() == label.max():
        raise BadRows(f"{name}: all {len(label):,} labels are {label[0]:.0f}; a domain is learned from rows of both")
    return label


def _context(column: pl.Series, field: Field, name: str) -> pl.Series:
    inner = column.dtype
    if field.kind == "multi_hot":
        if not isinstance(inner, pl.List):
            raise BadRows(f"{name}: {field.name} holds {inner}; field {field.name!r} takes lists")
        inner = column.explode().dtype
    fits = inner.is_numeric() if field.kind == "dense" else inner.is_integer() or inner == pl.String
    if not fits and inner != pl.Null:
        wanted = "numbers" if field.kind == "dense" else "strings or integers"
        raise BadRows(f"{name}: {field.name} holds {inner}; field {field.name!r} takes {wanted}")
    return column


def _domains(frame: pl.DataFrame, division: Division, name: str) -> NDArray[np.int32]:
    """Positions of the rows' domains in a division of context, whose domain a request names itself."""
    column = division.field or division.name
    if column not in frame.columns:
        raise BadRows(
            f"{name} has no column {column!r}: the domain of division {division.name!r} that each row lies in, which "
            "what is live fuses"
        )
    place = {domain: at for at, domain in enumerate(division.domains)}
    return np.array([place.get(value, -1) for value in frame[column].cast(pl.String).to_list()], np.int32)


def _split_column(column: pl.Series, name: str) -> pl.Series:
    parts = column.cast(pl.String)
    row = _first(~parts.is_in(list(PARTS)).fill_null(False))
    if row is not None:
        raise BadRows(f"{name} row {row}: {SPLIT} is {parts[row]!r}; it is one of {', '.join(PARTS)}")
    return parts


def _first(odd: pl.Series) -> int | None:
    """The first row that is true; None where none is."""
    rows = odd.arg_true()
    return int(rows[0]) if len(rows) else None
