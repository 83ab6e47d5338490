"""Users or items out of a parquet file, a batch of rows at a time.

    id                 string or integer, never empty, each once
    <field>            one column a field: strings or integers; lists of them; numbers. Empty is missing.
    division.<name>    optional: domain ids. Absent: by the field that the division's rule reads, else as below.
    deleted            optional, deltas only: true takes the id away

The vocabulary must hold a field that is the id itself (`id: true`) of the column `id`. A division that nothing tells is
none in a full table; in a delta it stays as the parent has it. Only training and the command line read parquet: pyarrow
is imported when a file is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.encoding import RawColumn, SideEncoder, domains_by_value, encode_domains
from features.errors import BadTable, InvalidValue
from features.fields import Division, Field
from features.index import RawIndex
from features.layers import Delta
from features.vocabulary import Vocabulary

ID, DELETED = "id", "deleted"
_BATCH_ROWS = 1 << 16
_SHOWN = 5


@dataclass(frozen=True, slots=True, eq=False)
class ReadTable:
    """What a file holds, encoded.

    Args:
        rows: ids, columns and deletions.
        unknown_values: field -> how many values the vocabulary does not have.
        unnamed_divisions: divisions that nothing in the file tells.
    """

    rows: Delta
    unknown_values: dict[str, int]
    unnamed_divisions: tuple[str, ...]


def read_parquet(
    path: Path, fields: tuple[Field, ...], divisions: tuple[Division, ...], vocabulary: Vocabulary, is_delta: bool
) -> ReadTable:
    """Read and encode a file.

    Args:
        path: of the file.
        fields: of the side.
        divisions: of the side.
        vocabulary: of the backbone.
        is_delta: whether ids may be deleted.

    Returns:
        Its rows, in the order of their ids.

    Raises:
        BadTable: it cannot be read, lacks a column, or a column does not hold what it must; column, row or id named.
    """
    reader = _Reader(path, fields, divisions, vocabulary, is_delta)
    try:
        return reader.read()
    except InvalidValue as error:
        raise BadTable(f"{path.name}: {error}") from None


class _Reader:
    def __init__(
        self,
        path: Path,
        fields: tuple[Field, ...],
        divisions: tuple[Division, ...],
        vocabulary: Vocabulary,
        is_delta: bool,
    ) -> None:
        self._arrow, self._compute, self._file = _opened(path)
        self._name = path.name
        self._fields = fields
        self._schema = self._file.schema_arrow
        self._is_delta = is_delta
        self._sources = {field.name: ID if field.id else field.name for field in fields}
        self._check_columns()
        self._named = {d.name: source for d in divisions if (source := self._division_source(d)) is not None}
        self._divisions = {division.name: division for division in divisions}
        self._domains: dict[str, list[NDArray[np.int32]]] = {name: [] for name in self._named}
        self._encoder = SideEncoder(fields, {f.name: vocabulary[f.name] for f in fields if f.kind != "dense"})
        self._ids: list[Any] = []
        self._gone: list[NDArray[np.bool_]] = []

    def read(self) -> ReadTable:
        for batch in self._batches():
            self._add(batch)
        index, order, deleted = self._index()
        columns = self._encoder.encoded().take(order)
        domains = {
            name: np.concatenate([np.zeros(0, np.int32), *parts])[order] for name, parts in self._domains.items()
        }
        unnamed = tuple(name for name in self._divisions if name not in self._named)
        if not self._is_delta:
            domains |= {name: np.full(len(order), -1, np.int32) for name in unnamed}
        return ReadTable(Delta(index, columns, domains, deleted), self._encoder.unknown, unnamed)

    def _batches(self) -> Iterator[Any]:
        wanted = {ID, *self._sources.values(), *self._named.values()}
        if self._is_delta and DELETED in self._schema.names:
            wanted.add(DELETED)
        try:
            yield from self._file.iter_batches(batch_size=_BATCH_ROWS, columns=sorted(wanted))
        except (self._arrow.ArrowException, OSError) as error:
            raise BadTable(f"{self._name} cannot be read as parquet: {error}") from None

    def _add(self, batch: Any) -> None:
        before = sum(map(len, self._gone))
        ids = batch.column(ID)
        if ids.null_count:
            empty = int(np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False))[0])
            raise BadTable(f"{self._name}: the id of row {before + empty} is empty; every row needs one")
        gone = np.zeros(len(batch), bool)
        if self._is_delta and DELETED in batch.schema.names:
            gone = batch.column(DELETED).fill_null(False).to_numpy(zero_copy_only=False)
        self._ids.append(ids)
        self._gone.append(gone)
        self._encode(batch.filter(self._arrow.array(~gone)) if gone.any() else batch)

    def _encode(self, batch: Any) -> None:
        columns: dict[str, RawColumn] = {}
        offsets: dict[str, NDArray[np.int64]] = {}
        dense: dict[str, NDArray[np.float64]] = {}
        for field in self._fields:
            column = batch.column(self._sources[field.name])
            if field.kind == "dense":
                dense[field.name] = column.cast("float64").fill_null(np.nan).to_numpy(zero_copy_only=False)
            elif field.kind == "sparse":
                columns[field.name] = _raw(column)
            else:
                columns[field.name], offsets[field.name] = _lists(column)
        self._encoder.add(len(batch), columns, offsets, dense)
        for name, source in self._named.items():
            own = _raw(batch.column(source))
            encode = encode_domains if source == f"division.{name}" else domains_by_value
            self._domains[name].append(encode(self._divisions[name], own))

    def _index(self) -> tuple[RawIndex, NDArray[np.int64], RawIndex]:
        """The ids that stay in order, which of the encoded rows each has, and the ids that go."""
        ids = self._arrow.chunked_array(self._ids, self._schema.field(ID).type)
        gone = np.concatenate([np.zeros(0, bool), *self._gone])
        index, order = self._sorted(ids.filter(self._arrow.array(~gone)) if gone.any() else ids)
        deleted, _ = self._sorted(ids.filter(self._arrow.array(gone)))
        both = np.flatnonzero(index.find(deleted.values()) >= 0)
        if len(both):
            raise BadTable(f"{self._name}: id {deleted.raw(int(both[0]))!r} has a row and is deleted in another")
        return index, order, deleted

    def _sorted(self, ids: Any) -> tuple[RawIndex, NDArray[np.int64]]:
        plain = _plain(self._arrow, ids)
        order = self._compute.sort_indices(plain)
        plain = plain.take(order)
        if len(plain) > 1:
            same = self._compute.equal(plain.slice(1), plain.slice(0, len(plain) - 1)).to_numpy(zero_copy_only=False)
            if same.any():
                twice = str(plain[int(np.flatnonzero(same)[0])])
                raise BadTable(f"{self._name}: id {twice!r} stands in more than one row ({int(same.sum())} too many)")
        return _index_of(self._arrow, plain), order.to_numpy().astype(np.int64)

    def _check_columns(self) -> None:
        missing = [name for name in [ID, *self._sources.values()] if name not in self._schema.names]
        if missing:
            shown = ", ".join(self._schema.names[:20])
            raise BadTable(f"{self._name} has no column {missing[0]!r}; it has {shown}")
        if DELETED in self._schema.names:
            if not self._is_delta:
                raise BadTable(f"{self._name} has a column {DELETED!r}: only a delta deletes; name its --parent")
            self._check_type(DELETED, "true or false", self._arrow.types.is_boolean)
        self._check_type(ID, "strings or integers", self._is_raw)
        for field in self._fields:
            expected, check = {
                "sparse": ("strings or integers", self._is_raw),
                "multi_hot": ("lists of strings or integers", self._is_list),
                "dense": ("numbers", self._is_number),
            }[field.kind]
            self._check_type(self._sources[field.name], expected, check)

    def _check_type(self, column: str, expected: str, check: Any) -> None:
        kind = self._schema.field(column).type
        if not check(kind):
            raise BadTable(f"{self._name}: column {column!r} holds {kind}; it must hold {expected}")

    def _is_raw(self, kind: Any) -> bool:
        types = self._arrow.types
        if types.is_dictionary(kind):
            return self._is_raw(kind.value_type)
        return bool(
            types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind)
        )

    def _is_list(self, kind: Any) -> bool:
        types = self._arrow.types
        return bool(types.is_list(kind) or types.is_large_list(kind)) and self._is_raw(kind.value_type)

    def _is_number(self, kind: Any) -> bool:
        types = self._arrow.types
        return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_null(kind))

    def _division_source(self, division: Division) -> str | None:
        named = f"division.{division.name}"
        if named in self._schema.names:
            self._check_type(named, "domain ids", self._is_raw)
            return named
        readable = division.rule == "value" and division.field in self._schema.names
        return division.field if readable and self._is_raw(self._schema.field(division.field).type) else None


def _opened(path: Path) -> tuple[Any, Any, Any]:
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise BadTable("reading parquet needs pyarrow: install espalier[train]") from None
    try:
        return pyarrow, pyarrow.compute, pyarrow.parquet.ParquetFile(path, memory_map=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadTable(f"{path.name} cannot be read as parquet: {error}") from None


def _raw(column: Any) -> RawColumn:
    """A column of values, each distinct one once; ids are hardly ever repeated, so integers stay as they are."""
    if str(column.type).startswith("dictionary"):
        column = column.dictionary_decode()
    kind = str(column.type)
    if kind == "null":
        return RawColumn([], np.full(len(column), -1, np.int64))
    if "int" in kind:
        places = np.arange(len(column))
        if column.null_count:
            places[column.is_null().to_numpy(zero_copy_only=False)] = -1
            column = column.fill_null(0)
        return RawColumn(column.to_numpy(zero_copy_only=False), places)
    coded = column.dictionary_encode()
    places = coded.indices.cast("int64").fill_null(-1).to_numpy(zero_copy_only=False)
    return RawColumn(coded.dictionary.to_pylist(), places)


def _lists(column: Any) -> tuple[RawColumn, NDArray[np.int64]]:
    """The elements of a list column without the empty ones, and where each row's begin."""
    elements = _raw(column.flatten())
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    owner = np.repeat(np.arange(len(column)), lengths)
    there = elements.places >= 0
    offsets = np.zeros(len(column) + 1, np.int64)
    np.cumsum(np.bincount(owner[there], minlength=len(column)), out=offsets[1:])
    return RawColumn(elements.values, elements.places[there]), offsets


def _plain(arrow: Any, ids: Any) -> Any:
    """Ids in one array whose order is the index's: integers by value if all are integers, else texts by bytes."""
    if arrow.types.is_dictionary(ids.type):
        ids = ids.cast(ids.type.value_type)
    if arrow.types.is_integer(ids.type):
        try:
            return ids.cast("int64").combine_chunks()
        except arrow.ArrowInvalid:
            return ids.cast("large_string").combine_chunks()  # beyond 64 bits
    texts = ids.cast("large_string").combine_chunks()
    integers = RawIndex.all_integers(texts.slice(offset, _BATCH_ROWS).to_pylist() for offset in _steps(len(texts)))
    return texts.cast("int64") if integers else texts


def _steps(n: int) -> range:
    return range(0, n, _BATCH_ROWS)


def _index_of(arrow: Any, ids: Any) -> RawIndex:
    """The index of sorted distinct ids."""
    if arrow.types.is_integer(ids.type):
        return RawIndex.from_values(ids.to_numpy(zero_copy_only=False))
    _, offsets, joined = ids.buffers()
    starts = np.frombuffer(offsets, np.int64)[ids.offset : ids.offset + len(ids) + 1]
    content = np.frombuffer(joined, np.uint8) if joined is not None else np.zeros(0, np.uint8)
    return RawIndex.from_sorted_texts(content[starts[0] : starts[-1]], starts - starts[0])
