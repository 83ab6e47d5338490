"""A feature table under later layers: what a few rows a day change in a table of millions, without writing it anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from features.fields import Field
from features.index import RawIndex
from features.question import Ids, Question
from features.rows import EncodedRows
from features.tables import FeatureTable

Positions = NDArray[np.int64]
Divisions = Mapping[str, NDArray[np.int32]]


class IdTable(Protocol):
    """What is known of the ids of one side; immutable."""

    def __len__(self) -> int: ...
    def find(self, ids: Ids | Question) -> Positions:
        """Positions of raw `ids`, -1 where unknown; int64 (n,)."""

    def gather(self, positions: Positions) -> EncodedRows:
        """The encoded rows at `positions`; -1 gives row 0, the field's `missing`, or an empty list."""

    def division(self, name: str, positions: Positions) -> NDArray[np.int32]:
        """Position of each row's domain in the division's domains; int32 (n,), -1 = none."""


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """One layer.

    Args:
        index: the ids that are new or changed.
        columns: their encoded rows.
        divisions: division name -> int32 (n,), position in its domains; a division that is absent stays as it is.
        deleted: the ids that are gone; none of them is in `index`.
    """

    index: RawIndex
    columns: EncodedRows
    divisions: Divisions
    deleted: RawIndex


class LayeredTable:
    """A base and what all layers above it say together. Immutable: `under` makes another one of the same base.

    Args:
        base: the full table, usually mapped from a file.
        fields: the fields of this side.
        division_names: the divisions of this side.
        changed: one row for each id that some layer names.
        gone: bool (changed,), which of these ids are deleted.
    """

    def __init__(
        self,
        base: FeatureTable,
        fields: Iterable[Field],
        division_names: Iterable[str],
        changed: FeatureTable | None = None,
        gone: NDArray[np.bool_] | None = None,
    ) -> None:
        self._base = base
        self._fields = tuple(fields)
        self._division_names = tuple(division_names)
        self._changed = changed
        self._gone = np.zeros(0, bool) if gone is None else gone
        hidden = 0 if changed is None else int(np.count_nonzero(base.find(changed.index.values()) >= 0))
        self._length = len(base) - hidden + int(np.count_nonzero(~self._gone))

    def __len__(self) -> int:
        return self._length

    def find(self, ids: Ids | Question) -> Positions:
        """See IdTable; rows that a layer changed stand behind those of the base."""
        asked = Question.of(ids)  # both parse and pack the same ids, once
        positions = self._base.find(asked)
        if self._changed is None:
            return positions
        changed = self._changed.find(asked)
        named = np.flatnonzero(changed >= 0)
        if len(named):
            rows = changed[named]
            positions[named] = np.where(self._gone[rows], -1, rows + len(self._base))
        return positions

    def gather(self, positions: Positions) -> EncodedRows:
        """See IdTable."""
        if self._changed is None:
            return self._base.gather(positions)
        above = positions >= len(self._base)
        if not bool(above.any()):
            return self._base.gather(positions)
        lower, upper = np.flatnonzero(~above), np.flatnonzero(above)
        parts = [self._base.gather(positions[lower]), self._changed.gather(positions[upper] - len(self._base))]
        order = np.empty(len(positions), np.int64)
        order[np.concatenate([lower, upper])] = np.arange(len(positions))
        return EncodedRows.concatenate(parts).take(order)

    def division(self, name: str, positions: Positions) -> NDArray[np.int32]:
        """See IdTable."""
        if self._changed is None:
            return self._base.division(name, positions)
        above = positions >= len(self._base)
        domains = self._base.division(name, np.where(above, -1, positions))
        domains[above] = self._changed.division(name, positions[above] - len(self._base))
        return domains

    def under(self, deltas: Sequence[Delta]) -> LayeredTable:
        """This table with more layers on top; it stays as it is itself.

        Args:
            deltas: what changes, the oldest first; an id that one deletes may be unknown.
        """
        if not deltas:
            return self
        held = [] if self._changed is None else [self._changed]
        named = [values for delta in deltas for values in (delta.index.values(), delta.deleted.values())]
        index = _union([*(table.index.values() for table in held), *named])
        asked = Question(index.values())
        before = self._changed.find(asked) if self._changed is not None else np.full(len(index), -1, np.int64)
        parents = self.find(asked)
        domains = {name: self.division(name, parents) for name in self._division_names}
        newest = _Newest(before, sum(map(len, held)), (before >= 0) & (parents < 0))
        for delta in deltas:
            newest.lay(delta, asked, domains)
        parts = [*(table.columns for table in held), *(delta.columns for delta in deltas)]
        nothing = self._base.gather(np.full(1, -1, np.int64))
        columns = EncodedRows.concatenate([*parts, nothing]).take(newest.rows)
        changed = FeatureTable(index.hashed(least=1, mostly_unknown=True), self._fields, columns, domains)
        return LayeredTable(self._base, self._fields, self._division_names, changed, newest.gone)

    def flat(self) -> FeatureTable:
        """The same as one table without layers."""
        if self._changed is None:
            return self._base
        hidden = self._base.find(self._changed.index.values())
        stays = np.ones(len(self._base), bool)
        stays[hidden[hidden >= 0]] = False
        lower, upper = np.flatnonzero(stays), np.flatnonzero(~self._gone)
        ids = [_chosen(self._base.index.values(), lower), _chosen(self._changed.index.values(), upper)]
        index = _union(ids).hashed()
        positions = np.empty(len(index), np.int64)
        for own, rows in zip(ids, (lower, upper + len(self._base)), strict=True):
            positions[index.find(own)] = rows
        divisions = {name: self.division(name, positions) for name in self._division_names}
        return FeatureTable(index, self._fields, self.gather(positions), divisions)


class _Newest:
    """For each of n ids which row the newest layer gives it, while layers are laid one on another.

    Args:
        rows: its row in what there is before, int64 (n,); -1, the row behind all layers, where it has none.
        laid: how many rows there are before.
        gone: bool (n,), whether it is deleted.
    """

    def __init__(self, rows: Positions, laid: int, gone: NDArray[np.bool_]) -> None:
        self.rows = rows
        self.gone = gone
        self._laid = laid

    def lay(self, delta: Delta, asked: Question, domains: Mapping[str, NDArray[np.int32]]) -> None:
        """One layer more; the columns (n,) of `domains` follow it."""
        new = delta.index.find(asked)
        has_row, is_deleted = new >= 0, delta.deleted.find(asked) >= 0
        self.rows[has_row] = new[has_row] + self._laid
        self._laid += len(delta.index)
        self.gone |= is_deleted
        self.gone[has_row] = False
        for name, column in domains.items():
            column[is_deleted] = -1
            if name in delta.divisions:
                column[has_row] = delta.divisions[name][new[has_row]]


def _chosen(values: Ids, rows: Positions) -> Ids:
    return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows.tolist()]


def _union(parts: list[Ids]) -> RawIndex:
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts):
        return RawIndex.from_values(np.concatenate(arrays))
    return RawIndex.from_values([str(value) for part in parts for value in part])
