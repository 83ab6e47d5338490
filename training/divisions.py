"""From a division's rule to the domain of every row.

Rules of `Division.rule`:
    None          of domain: the row's domain_id is the domain
    "value"       the domain is `<division>-<value of the field>`; a value without such a domain belongs to none
    "count:a,b"   of user or item: by the number of its training rows; below a, below b, b or more
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from features.fields import Division
from training.errors import PreparedError

NONE = -1


def column_of(division: Division) -> str:
    """The column of the rows that a division of domain or context reads; empty where its rule names none."""
    return "domain_id" if division.of == "domain" and division.rule is None else division.field or ""


def row_domains(division: Division, interactions: pl.DataFrame) -> NDArray[np.int32]:
    """Domains of a division of domain or context.

    Args:
        division: its rule is None or "value".
        interactions: n rows.

    Returns:
        Positions in the division's domains, int32 (n,); -1 is none.

    Raises:
        PreparedError: the rule is none of the above, or its field is missing.
    """
    if division.of == "domain" and division.rule is None:
        return _matched(interactions[column_of(division)].cast(pl.String), division)
    return _by_value(division, interactions)


def entity_domains(division: Division, table: pl.DataFrame, train_rows: NDArray[np.int64]) -> NDArray[np.int32]:
    """Domains of a division of user or item.

    Args:
        division: its rule is "value" or "count:...".
        table: the users or items, n of them.
        train_rows: training rows of each; int64 (n,).

    Returns:
        Positions in the division's domains, int32 (n,); -1 is none.

    Raises:
        PreparedError: the rule is none of the above, or its field is missing.
    """
    rule = division.rule or ""
    if not rule.startswith("count:"):
        return _by_value(division, table)
    try:
        bounds = [int(bound) for bound in rule.removeprefix("count:").split(",")]
    except ValueError:
        raise PreparedError(f"division {division.name!r}: rule {rule!r} must be like count:10,50") from None
    if sorted(set(bounds)) != bounds or len(bounds) + 1 != len(division.domains):
        raise PreparedError(
            f"division {division.name!r}: rule {rule!r} needs rising bounds, one fewer than its "
            f"{len(division.domains)} domains"
        )
    return np.digitize(train_rows, bounds).astype(np.int32)


def _by_value(division: Division, table: pl.DataFrame) -> NDArray[np.int32]:
    if division.rule != "value":
        raise PreparedError(
            f"division {division.name!r} of {division.of} has the unknown rule {division.rule!r}; "
            "known are value and, of user or item, count:<bound>,<bound>"
        )
    if division.field not in table.columns:
        raise PreparedError(f"division {division.name!r} reads {division.field!r}, which is no column of {division.of}")
    return _matched(pl.lit(f"{division.name}-") + table[division.field].cast(pl.String), division)


def _matched(names: pl.Series | pl.Expr, division: Division) -> NDArray[np.int32]:
    series = names if isinstance(names, pl.Series) else pl.select(names).to_series()
    positions = {domain: position for position, domain in enumerate(division.domains)}
    return series.replace_strict(positions, default=NONE, return_dtype=pl.Int32).to_numpy().astype(np.int32)
