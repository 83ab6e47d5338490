"""Divisions that are tried, and how they divide the users, the items or the rows of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.fields import Division
from training.divisions import row_domains
from training.encoding import Side
from training.prepared import PreparedDataset

Origin = Literal["declared", "column", "bands", "rows", "clusters"]
Of = Literal["user", "item", "context"]
OF: tuple[Of, ...] = ("user", "item", "context")
_TABLE_OF: Mapping[Of, str] = {"user": "users", "item": "items", "context": "interactions"}


@dataclass(frozen=True)
class Candidate:
    """A division to try.

    Args:
        division: with its rule, as a spec holds it.
        origin: where it comes from.
        column: the column that was made for it; None where its rule reads what is there.
    """

    division: Division
    origin: Origin
    column: str | None = None

    @property
    def of(self) -> Of:
        """Whose entities it divides: a division of domain reads the rows, as one of context does."""
        of = self.division.of
        return "context" if of == "domain" else of


def sides_of(prepared: PreparedDataset, train: NDArray[np.int64]) -> dict[Of, Side]:
    """The users, the items, and the rows themselves.

    Args:
        prepared: the data.
        train: (t,) positions of the training rows.
    """
    return {
        "user": Side.of_entities("user_id", prepared.users, prepared.rows, train),
        "item": Side.of_entities("item_id", prepared.items, prepared.rows, train),
        "context": Side.of_rows(prepared.interactions, train),
    }


def domains_of(candidate: Candidate, side: Side) -> NDArray[np.int32]:
    """The domain of each user, item or row, as training would find it.

    Args:
        candidate: whose division.
        side: of what it divides, of data that has its column.

    Returns:
        Positions int32 (entities,); -1 is none.
    """
    if candidate.of == "context":
        return row_domains(candidate.division, side.frame)
    return side.domains(candidate.division)


def table_of(prepared: PreparedDataset, of: Of) -> pl.DataFrame:
    """The table whose columns divide users, items or rows."""
    table: pl.DataFrame = getattr(prepared, _TABLE_OF[of])
    return table


def with_columns(prepared: PreparedDataset, of: Of, columns: list[pl.Series]) -> PreparedDataset:
    """The data with more columns of users, items or rows."""
    tables = {each: table_of(prepared, each) for each in OF}
    tables[of] = tables[of].with_columns(*columns)
    return PreparedDataset(prepared.spec, tables["context"], tables["user"], tables["item"])
