"""Looks for divisions to try: those that the data declares, and one for each column of users and items that can divide.

Columns of the rows are not tried. The service asks the client for the domain of a division of context, so such a
division is its clients' to introduce; where the data declares one, it is probed like the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adapters_store.errors import BadId
from adapters_store.ids import check_domain
from features.fields import Division
from training.chooser.candidates import Candidate, Of, Origin, table_of, with_columns
from training.config import DivisionsConfig
from training.encoding import Side
from training.errors import ConfigError
from training.prepared import PreparedDataset

_KEYS = ("user_id", "item_id")
_COUNTED: Mapping[Of, str] = {"user": "user-activity", "item": "item-popularity"}
_COUNT_BANDS = 3


@dataclass(frozen=True)
class Proposal:
    """What will be tried, and what will not.

    Args:
        prepared: the data, with a column more for each candidate that needs one.
        candidates: with different names, and with no domain in two of them.
        skipped: column to why it is not tried.
    """

    prepared: PreparedDataset
    candidates: tuple[Candidate, ...]
    skipped: Mapping[str, str]

    def with_clusters(self, of: Of, number: NDArray[np.int64], side: Side, least: int) -> Proposal:
        """Add a candidate that a clustering makes.

        Args:
            of: what was clustered.
            number: (entities,) each one's cluster, in the order of the side; -1 is none.
            side: the users or items.
            least: training rows that a cluster needs to be a domain.
        """
        name, key = f"{of}-cluster", f"{of}_id"
        table = table_of(self.prepared, of)
        column = _free(name, table.columns)
        named = pl.Series(column, [str(each + 1) if each >= 0 else None for each in number.tolist()], pl.String)
        values = _frequent(named, side.train_rows, least, len(number))
        divisions = [*self.prepared.spec.divisions, *(each.division for each in self.candidates)]
        taken = {found for division in divisions for found in (division.name, *division.domains)}
        if len(values) < 2 or taken & {name, *_ids(name, values)}:
            reason = "its name is taken" if len(values) > 1 else f"fewer than two with {least} training rows each"
            return replace(self, skipped={**self.skipped, name: reason})
        lines = table.select(key).join(
            pl.DataFrame([side.frame[key], named]), on=key, how="left", maintain_order="left"
        )
        division = Division(name=name, natural=False, of=of, field=column, rule="value", domains=_ids(name, values))
        return replace(
            self,
            prepared=with_columns(self.prepared, of, [lines[column]]),
            candidates=(*self.candidates, Candidate(division, "clusters", column)),
        )


def propose(prepared: PreparedDataset, sides: Mapping[Of, Side], config: DivisionsConfig) -> Proposal:
    """Look for candidates.

    Args:
        prepared: the data.
        sides: its users, items and rows, with their training rows.
        config: what to look for.

    Raises:
        ConfigError: `columns` names a column that is not there.
    """
    declared = tuple(Candidate(d, "declared") for d in prepared.spec.divisions if not d.natural)
    proposer = _Proposer(prepared, sides, config, declared)
    for of, name in _columns(prepared, config):
        proposer.column(of, name)
    if config.counts:
        for of in _COUNTED:
            proposer.counted(of)
    return Proposal(proposer.prepared, tuple(proposer.candidates), proposer.skipped)


def _columns(prepared: PreparedDataset, config: DivisionsConfig) -> Iterator[tuple[Of, str]]:
    """The columns to try, users first; those that are asked for, where some are."""
    there = [(of, name) for of in _COUNTED for name in table_of(prepared, of).columns if name not in _KEYS]
    if config.columns is None:
        yield from there
        return
    for wanted in config.columns:
        found = [entry for entry in there if entry[1] == wanted]
        if not found:
            known = ", ".join(name for _, name in there)
            raise ConfigError(f"divisions.columns names {wanted!r}, no column of users or items; they have {known}")
        yield from found


class _Proposer:
    """Collects candidates; a name or a domain that is taken already is taken by nobody else.

    Args:
        prepared: the data.
        sides: of it.
        config: what to look for.
        declared: what the data declares.
    """

    def __init__(
        self,
        prepared: PreparedDataset,
        sides: Mapping[Of, Side],
        config: DivisionsConfig,
        declared: tuple[Candidate, ...],
    ) -> None:
        self.prepared = prepared
        self.candidates = list(declared)
        self.skipped: dict[str, str] = {}
        self._sides = sides
        self._config = config
        self._read = {(one.division.of, one.division.field) for one in declared if one.division.rule == "value"}
        self._taken = {name for division in prepared.spec.divisions for name in (division.name, *division.domains)}

    def column(self, of: Of, name: str) -> None:
        """Try one column, by its values or, where it has many numbers, by bands of them."""
        values = self._sides[of].frame[name]
        if (of, name) in self._read:
            return
        numbers = values.dtype.is_integer() and values.n_unique() > self._config.most_domains + 1
        if values.dtype.is_float() or numbers:
            self._bands(of, name)
        elif values.dtype.is_integer() or values.dtype in (pl.String, pl.Categorical, pl.Enum):
            self._by_value(of, name)
        else:
            self.skipped[name] = f"holds {values.dtype}; only strings, integers and numbers divide"

    def counted(self, of: Of) -> None:
        """Try bands of how many training rows a user or item has."""
        name = _COUNTED[of]
        rows = self._sides[of].train_rows
        bounds = [int(bound) for bound in _edges(rows.astype(np.float64), rows, _COUNT_BANDS) if bound > 0]
        if not bounds:
            self.skipped[name] = "all have as many training rows"
            return
        rule = f"count:{','.join(map(str, bounds))}"
        self._add(name, of, "rows", _numbers(len(bounds) + 1), rule=rule)

    def _bands(self, of: Of, name: str) -> None:
        """Cut a column of many numbers into bands of about as many training rows each."""
        side = self._sides[of]
        numbers = side.frame[name].cast(pl.Float64).fill_nan(None)
        known = numbers.is_not_null().to_numpy()
        edges = _edges(numbers.to_numpy()[known], side.train_rows[known], self._config.bands)
        if not len(edges):
            self.skipped[name] = "nearly all rows have the same number"
            return
        mine = table_of(self.prepared, of)[name].cast(pl.Float64).fill_nan(None)
        cut = pl.Series(np.digitize(mine.fill_null(0.0).to_numpy(), edges) + 1).cast(pl.String)
        made = _free(f"{name}-band", table_of(self.prepared, of).columns)
        banded = pl.select(pl.when(mine.is_not_null()).then(cut)).to_series().alias(made)
        self.prepared = with_columns(self.prepared, of, [banded])
        self._add(made, of, "bands", _numbers(len(edges) + 1), field=made, rule="value", column=made)

    def _by_value(self, of: Of, name: str) -> None:
        side, config = self._sides[of], self._config
        frequent = _frequent(side.frame[name], side.train_rows, config.min_rows, config.most_domains)
        values = [value for value in frequent if _usable(f"{name}-{value}")]
        if len(values) < 2:
            few = f"fewer than two values with {config.min_rows} training rows each"
            unusable = f"fewer than two of its {len(frequent)} values make domain ids (letters, digits, _:=.-)"
            self.skipped[name] = few if len(frequent) < 2 else unusable
            return
        self._add(name, of, "column", values, field=name, rule="value")

    def _add(
        self,
        name: str,
        of: Of,
        origin: Origin,
        values: Sequence[str],
        *,
        rule: str,
        field: str | None = None,
        column: str | None = None,
    ) -> None:
        domains = _ids(name, values)
        if not _usable(name) or self._taken & {name, *domains}:
            self.skipped[name] = "its name, or a domain's, is no id or is taken"
            return
        self._taken |= {name, *domains}
        division = Division(name=name, natural=False, of=of, field=field, rule=rule, domains=domains)
        self.candidates.append(Candidate(division, origin, column))


def _frequent(values: pl.Series, train_rows: NDArray[np.int64], least: int, most: int) -> list[str]:
    """The values with most training rows, at least so many each and at most so many values; sorted."""
    table = pl.DataFrame({"value": values.cast(pl.String), "rows": train_rows}).drop_nulls()
    counted = table.group_by("value").agg(pl.col("rows").sum()).filter(pl.col("rows") >= least)
    kept = counted.sort(["rows", "value"], descending=[True, False]).head(most)
    return sorted(kept["value"].to_list())


def _edges(values: NDArray[np.float64], weight: NDArray[np.int64], bands: int) -> NDArray[np.float64]:
    """Numbers that cut the training rows into about equal bands: x lies above an edge where x >= edge."""
    order = np.argsort(values, kind="stable")
    running = np.cumsum(weight[order])
    if not len(running) or running[-1] == 0:
        return np.empty(0)
    at = np.searchsorted(running, running[-1] * np.arange(1, bands) / bands, side="right")
    edges = np.unique(values[order][np.minimum(at, len(order) - 1)])
    above: NDArray[np.float64] = edges[edges > values[order][0]]
    return above


def _numbers(count: int) -> list[str]:
    return [str(number) for number in range(1, count + 1)]


def _ids(name: str, values: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name}-{value}" for value in values)


def _usable(name: str) -> bool:
    try:
        check_domain(name)
    except BadId:
        return False
    return True


def _free(name: str, taken: list[str]) -> str:
    """The name, or the name with the first number that makes it new."""
    number, found = 2, name
    while found in taken:
        number, found = number + 1, f"{name}-{number}"
    return found
