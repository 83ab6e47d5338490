"""Rows of a new domain as the service would encode them: ids by the feature tables, context by the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adapters_store.feature_tables import SIDES, Side, side_fields
from features.context import encode_domain
from features.encoding import RawColumn, SideEncoder
from features.errors import InvalidValue
from features.fields import Division, Field
from features.index import RawIndex
from features.layers import IdTable
from features.rows import EncodedRows
from features.tables import FeatureTable
from training.dataset import EncodedDataset
from training.newcomer.errors import BadRows, UnknownIds
from training.newcomer.ground import Ground
from training.newcomer.rows import NewRows

OF: Mapping[Side, str] = {"users": "user", "items": "item"}
"""Side of a table to what a field of it is of."""

_SHOWN = 3
_PADDING = -1


@dataclass(frozen=True)
class SideRows:
    """What the rows name of one side.

    Args:
        index: the ids, each once.
        columns: their encoded rows.
        entity: position in `index` of each of the n rows, int64 (n,).
        divisions: auxiliary division of this side to the position of each id's domain in it, int32; -1 is none.
    """

    index: RawIndex
    columns: EncodedRows
    entity: NDArray[np.int64]
    divisions: Mapping[str, NDArray[np.int32]]


@dataclass(frozen=True)
class EncodedNewcomer:
    """A new domain's rows, ready for training.

    Args:
        dataset: of the natural division with this one domain, then of the auxiliary divisions that the rival fuses; its
            users and items are those that the rows name.
        sides: the same by id.
    """

    dataset: EncodedDataset
    sides: Mapping[Side, SideRows]


def encode_rows(rows: NewRows, ground: Ground) -> EncodedNewcomer:
    """Encode n rows.

    Args:
        rows: n of them.
        ground: backbone and tables, with what is added to them.

    Raises:
        UnknownIds: rows name ids that neither a table nor a file has; they are counted, and some named.
        BadRows: an id is longer than 255 bytes or holds a NUL, or a number of context is not finite.
    """
    manifest = ground.bundle.manifest
    try:
        sides = {side: _side(rows, ground, side) for side in SIDES}
        context = _context(rows, ground)
    except InvalidValue as error:
        raise BadRows(str(error)) from None
    _check_known(sides, ground)
    once = encode_domain(manifest.fields, ground.vocabulary, ground.domain)
    n = len(rows)
    everything = np.arange(n)
    parts: dict[str, tuple[EncodedRows, NDArray[np.int64]]] = {
        **{OF[side]: (found.columns, found.entity) for side, found in sides.items()},
        "context": (context, everything),
        "domain": (once, np.zeros(n, np.int64)),
    }
    natural = ground.division.model_copy(update={"domains": (ground.domain,)})
    fused = ground.fused_divisions
    tables = {
        side: FeatureTable(found.index, side_fields(manifest, side), found.columns, {}) for side, found in sides.items()
    }
    return EncodedNewcomer(
        EncodedDataset(
            fields=tuple(manifest.fields),
            divisions=(natural, *fused),
            vocabulary=ground.vocabulary,
            users=tables["users"],
            items=tables["items"],
            sparse=_stacked("sparse", manifest.fields, parts, n, np.int32),
            dense=_stacked("dense", manifest.fields, parts, n, np.float32),
            multi_hot=dict(_lists(manifest.fields, parts)),
            label=rows.label,
            division={natural.name: np.zeros(n, np.int32)} | {one.name: _domains(one, rows, sides) for one in fused},
            user=sides["users"].entity.astype(np.int32),
            probability=None,
        ),
        sides,
    )


def _side(rows: NewRows, ground: Ground, side: Side) -> SideRows:
    ids = rows.frame[f"{OF[side]}_id"]
    index = RawIndex.from_values(ids.unique().to_list())
    table: IdTable = ground.tables[side].table
    if side in ground.added:
        table = ground.tables[side].table.under([ground.added[side].rows])
    found = table.find(index.values())
    own = [one.name for one in ground.fused_divisions if one.of == OF[side]]
    divisions = {name: table.division(name, found) for name in own}
    return SideRows(index, table.gather(found), index.find(ids.to_list()), divisions)


def _domains(division: Division, rows: NewRows, sides: Mapping[Side, SideRows]) -> NDArray[np.int32]:
    """Position of each row's domain in an auxiliary division, int32 (n,); -1 is none, also where nothing tells."""
    for found in sides.values():
        if division.name in found.divisions:
            return found.divisions[division.name][found.entity]
    return rows.domains.get(division.name, np.full(len(rows), -1, np.int32))


def _check_known(sides: Mapping[Side, SideRows], ground: Ground) -> None:
    faults = []
    for side, found in sides.items():
        unknown = ground.tables[side].table.find(found.index.values()) < 0
        if side in ground.added:
            unknown &= ground.added[side].rows.index.find(found.index.values()) < 0
        places = np.flatnonzero(unknown)
        if len(places):
            shown = ", ".join(repr(found.index.raw(int(place))) for place in places[:_SHOWN])
            told = f"--{side} FILE does not have them either" if side in ground.added else f"give them by --{side} FILE"
            faults.append(f"the feature table lacks {len(places):,} {side} that the rows name, such as {shown}: {told}")
    if faults:
        raise UnknownIds("; ".join(faults))


def _context(rows: NewRows, ground: Ground) -> EncodedRows:
    fields = tuple(field for field in ground.bundle.manifest.fields if field.of == "context")
    encoder = SideEncoder(fields, {f.name: ground.vocabulary[f.name] for f in fields if f.kind != "dense"})
    columns: dict[str, RawColumn] = {}
    offsets: dict[str, NDArray[np.int64]] = {}
    dense: dict[str, NDArray[np.float64]] = {}
    for field in fields:
        column = rows.frame[field.name]
        if field.kind == "dense":
            dense[field.name] = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        elif field.kind == "sparse":
            columns[field.name] = _raw(column)
        else:
            columns[field.name], offsets[field.name] = _elements(column)
    encoder.add(len(rows), columns, offsets, dense)
    return EncodedRows(len(rows), encoder.encoded().arrays)


def _raw(column: pl.Series) -> RawColumn:
    texts = column.cast(pl.String)
    values = texts.drop_nulls().unique().sort()
    ranks = texts.rank("dense").fill_null(0).to_numpy().astype(np.int64)
    return RawColumn(values.to_list(), ranks - 1)


def _elements(column: pl.Series) -> tuple[RawColumn, NDArray[np.int64]]:
    lists = column.cast(pl.List(pl.String)).list.drop_nulls()
    lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    elements = lists.filter(pl.Series(lengths > 0)).explode()
    return _raw(elements), np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def _stacked(
    kind: str,
    fields: list[Field],
    parts: Mapping[str, tuple[EncodedRows, NDArray[np.int64]]],
    n: int,
    dtype: type[Any],
) -> NDArray[Any]:
    chosen = [field for field in fields if field.kind == kind]
    stacked = np.empty((n, len(chosen)), dtype)
    for position, field in enumerate(chosen):
        columns, entity = parts[field.of]
        stacked[:, position] = columns.arrays[field.name][entity]
    return stacked


def _lists(
    fields: list[Field], parts: Mapping[str, tuple[EncodedRows, NDArray[np.int64]]]
) -> Iterator[tuple[str, tuple[NDArray[np.int32], NDArray[np.int32]]]]:
    """Each multi-hot field's lists (entities, L), padded with -1, and the entity of each row."""
    for field in fields:
        if field.kind == "multi_hot":
            columns, entity = parts[field.of]
            values, offsets = columns.arrays[f"{field.name}.values"], columns.arrays[f"{field.name}.offsets"]
            lengths = np.diff(offsets)
            padded = np.full((len(lengths), max(1, int(lengths.max(initial=0)))), _PADDING, np.int32)
            padded[np.arange(padded.shape[1]) < lengths[:, None]] = values
            yield field.name, (padded, entity.astype(np.int32))
