"""A parameter shard: some rows of the table and some dense tensors, and the outer optimizer on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.cluster.combining import Combination
from training.cluster.parts import Part, PartFolder
from training.cluster.placement import Placement
from training.frameworks.optimizers import Optimizer
from training.frameworks.structure import TABLE

Rows = NDArray[np.int64]
Values = NDArray[np.float32]


@dataclass(frozen=True)
class _Staged:
    rows: Rows
    moved: Values
    dense: Mapping[str, Values]


class ParameterShard:
    """Holds parameters and takes changes of whole rounds in.

    A worker's changes wait under a ticket until they are committed: a worker that dies while it pushes leaves nothing
    behind, and no change is taken in twice. On a commit the outer optimizer gets the pseudo-gradient theta - end, which
    is minus the change (methods.md 3, outer update), for the touched rows and the dense tensors. Changes of several
    workers committed together were made from the same values: they are combined first and are one outer step.

    Args:
        index: which shard this is.
        placement: of the parameters.
        combination: of several workers' changes; its rule is that of the outer optimizer.
    """

    def __init__(self, index: int, placement: Placement, combination: Combination) -> None:
        self.index = index
        self._placement = placement
        self._combination = combination
        self._optimizer = Optimizer(combination.rule)
        self._values: dict[str, Tensor] = {}
        self._staged: dict[str, _Staged] = {}
        self._version = 0

    def start(self, table: Values, dense: Mapping[str, Values]) -> None:
        """Take first values: this shard's rows (m, E), and its dense tensors by name."""
        self._values = {TABLE: torch.tensor(table), **{name: torch.tensor(value) for name, value in dense.items()}}

    def pull_rows(self, rows: Rows) -> tuple[Values, int]:
        """Return the values (n, E) of rows (n,) that live here, and how many commits they contain."""
        at = torch.from_numpy(self._placement.place_in_shard(rows))
        return self._values[TABLE].index_select(0, at).numpy(), self._version

    def pull_dense(self) -> tuple[dict[str, Values], int]:
        """Return every dense tensor of this shard by name, and how many commits they contain."""
        return {name: value.numpy().copy() for name, value in self._values.items() if name != TABLE}, self._version

    def stage(self, ticket: str, rows: Rows, moved: Values, dense: Mapping[str, Values]) -> None:
        """Keep what a worker wants rows (u,) and dense tensors to move by, until `commit` names the ticket."""
        self._staged[ticket] = _Staged(rows.copy(), moved.copy(), {name: value.copy() for name, value in dense.items()})

    def commit(self, tickets: Sequence[str]) -> int:
        """Take in what is staged under these tickets as one outer step, added up in this order.

        Returns:
            How many commits this shard has taken.
        """
        staged = [self._staged.pop(ticket) for ticket in tickets]
        self._optimizer.begin()
        rows, moved = self._rows_moved(staged)
        self._optimizer.rows(TABLE, self._values[TABLE], rows, -moved)
        self._optimizer.dense(self._values, {name: -value for name, value in self._dense_moved(staged).items()})
        self._version += 1
        return self._version

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that a checkpoint keeps; what is staged is not part of it."""
        named = {f"values/{name}": value for name, value in self._values.items()}
        named |= {f"optimizer/{name}": value for name, value in self._optimizer.tensors().items()}
        return named | {"version": torch.tensor(self._version)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Become what `tensors` gave."""
        parts: dict[str, dict[str, Tensor]] = {"values": {}, "optimizer": {}}
        for name, value in tensors.items():
            prefix, slash, rest = name.partition("/")
            if slash:
                parts[prefix][rest] = value
        self._values = parts["values"]
        self._optimizer.load(parts["optimizer"])
        self._version = int(tensors["version"])
        self._staged = {}

    def _rows_moved(self, staged: Sequence[_Staged]) -> tuple[Tensor, Tensor]:
        """Places (u,) int64 inside this shard that any worker touched, and what each moves by (u, E)."""
        if len(staged) == 1:
            one = staged[0]
            return torch.from_numpy(self._placement.place_in_shard(one.rows)), torch.from_numpy(one.moved)
        rows = np.unique(np.concatenate([one.rows for one in staged]))
        moved = np.zeros((len(rows), self._values[TABLE].shape[1]), np.float32)
        touched = np.zeros(len(rows), np.float32)
        for one in staged:
            at = np.searchsorted(rows, one.rows)
            moved[at] += one.moved
            touched[at] += 1
        moved *= self._combination.share(touched)[:, None]
        return torch.from_numpy(self._placement.place_in_shard(rows)), torch.from_numpy(moved)

    def _dense_moved(self, staged: Sequence[_Staged]) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        workers: dict[str, int] = {}
        for one in staged:
            for name, value in one.dense.items():
                total[name] = total[name] + torch.from_numpy(value) if name in total else torch.from_numpy(value)
                workers[name] = workers.get(name, 0) + int(value.any())  # one without training rows moves nothing
        if len(staged) == 1:
            return total
        counts = np.maximum(np.array(list(workers.values()), np.float32), 1.0)
        shares = self._combination.share(counts)
        return {name: value * float(share) for (name, value), share in zip(total.items(), shares, strict=True)}


class ShardServer(ParameterShard):
    """A shard that leaves its state where checkpoints lie.

    Args:
        index, placement, combination: of the shard.
        parts: where checkpoints lie.
    """

    def __init__(self, index: int, placement: Placement, combination: Combination, parts: PartFolder) -> None:
        super().__init__(index, placement, combination)
        self._owner = f"shard-{index}"
        self._parts = parts

    def save(self) -> Part:
        """Write everything to a part."""
        return self._parts.write(self._owner, self.tensors())

    def restore(self, part: Part) -> None:
        """Become what a part holds.

        Raises:
            StateMismatch: the part is missing or damaged.
        """
        self.load(self._parts.read(part))
