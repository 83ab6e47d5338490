"""How a worker reaches the shards: one call to each that is concerned, all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from training.cluster.placement import Placement

Rows = NDArray[np.int64]
Values = NDArray[np.float32]


class Link(Protocol):
    """Calls methods of the shards, wherever they live."""

    def call(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Call a method of some shards, each with its own arguments, and wait for all; answers by shard."""
        ...


class DirectLink:
    """Shards in this very process: the semantics without an engine.

    Args:
        shards: in order.
    """

    def __init__(self, shards: Sequence[Any]) -> None:
        self._shards = shards

    def call(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Call one shard after the other."""
        return {shard: getattr(self._shards[shard], method)(*own) for shard, own in arguments.items()}


@dataclass(frozen=True)
class Pulled:
    """An answer of the shards.

    Args:
        values: (n, E) rows in the order in which they were asked for, or dense parameters by name.
        version: outer updates that the oldest of the answering shards had taken; -1 if none was asked.
    """

    values: Any
    version: int


class ParameterClient:
    """Parameters by row or by name, whatever shards hold them.

    Args:
        link: to the shards.
        placement: which shard has what.
        width: embedding width E.
    """

    def __init__(self, link: Link, placement: Placement, width: int) -> None:
        self._link = link
        self._placement = placement
        self._width = width

    def pull_rows(self, rows: Rows) -> Pulled:
        """Return the latest values (n, E) of distinct rows (n,)."""
        asked = self._by_shard(rows)
        answers = self._link.call("pull_rows", {shard: (rows[at],) for shard, at in asked.items()})
        values = np.empty((len(rows), self._width), np.float32)
        for shard, (found, _) in answers.items():
            values[asked[shard]] = found
        return Pulled(values, min((version for _, version in answers.values()), default=-1))

    def pull_dense(self) -> Pulled:
        """Return the latest value of every dense parameter, by name."""
        answers = self._link.call("pull_dense", dict.fromkeys(range(self._placement.shards), ()))
        values: dict[str, Values] = {}
        for found, _ in answers.values():
            values |= found
        return Pulled(values, min(version for _, version in answers.values()))

    def stage(self, ticket: str, rows: Rows, moved: Values, dense: Mapping[str, Values]) -> None:
        """Leave changes with the shards; they count when the ticket is committed, and not before.

        Args:
            ticket: names this worker's round.
            rows: (u,) distinct rows.
            moved: (u, E) what each is to move by.
            dense: what each dense parameter is to move by.
        """
        asked = self._by_shard(rows)
        none = np.empty(0, np.int64)
        self._link.call(
            "stage",
            {
                shard: (
                    ticket,
                    rows[asked.get(shard, none)],
                    moved[asked.get(shard, none)],
                    {name: dense[name] for name in self._placement.dense_of(shard) if name in dense},
                )
                for shard in range(self._placement.shards)
            },
        )

    def _by_shard(self, rows: Rows) -> dict[int, Rows]:
        shard = self._placement.shard_of(rows)
        return {int(one): np.flatnonzero(shard == one) for one in np.unique(shard)}
