"""Which adapters and which norm serve each row of a mixed batch: found once for a data set, not once a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from network.fused import FusedTower
from network.grouping import Domains, count_tuples


@dataclass(frozen=True)
class Bucket:
    """Groups of like size, filled up to the same number of rows.

    Args:
        adapters: (g,) whose rows these are.
        rows: (g * n,) positions of their rows in the batch; filling repeats any.
    """

    adapters: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Groups:
    """The rows of a batch by their adapter in one division.

    Args:
        buckets: the groups, by size.
        found: (n,) where each row stands among the buckets' rows side by side; past the last where it has no adapter.
        present: (n,) whether it has one.
    """

    buckets: tuple[Bucket, ...]
    found: Tensor
    present: Tensor

    @classmethod
    def of(cls, adapters: Tensor) -> Groups:
        """Group rows by adapter (n,), -1 for none; a group is filled to less than twice its rows."""
        order = torch.argsort(adapters, stable=True)
        order = order[int((adapters < 0).sum()) :]
        owners, counts = torch.unique_consecutive(adapters[order], return_counts=True)
        starts = torch.cumsum(counts, 0) - counts
        exponents = torch.ceil(torch.log2(counts.double())).long()
        buckets, total = [], 0
        found = torch.empty_like(adapters)
        for exponent in torch.unique(exponents).tolist():
            chosen = torch.nonzero(exponents == exponent).squeeze(1)
            n = int(counts[chosen].max())
            steps = torch.arange(n)
            real = steps < counts[chosen, None]
            rows = order[(starts[chosen, None] + steps).clamp(max=max(len(order) - 1, 0))]
            found[rows[real]] = total + torch.nonzero(real.flatten()).squeeze(1)
            buckets.append(Bucket(owners[chosen], rows.flatten()))
            total += len(chosen) * n
        present = adapters >= 0
        found[~present] = total
        return cls(tuple(buckets), found, present)


@dataclass(frozen=True)
class Sorted:
    """A batch in the order in which `network.grouping.group` puts it: rows of one norm, then of one tuple, together.

    Args:
        order: (n,) positions of the rows in sorted order.
        groups: for each division, of the sorted rows.
        norms: (s,) the norms in use, ascending.
        segment: (n,) which of them serves each sorted row.
        counts: (s,) rows of each.
    """

    order: Tensor
    groups: tuple[Groups, ...]
    norms: Tensor
    segment: Tensor
    counts: Tensor

    def restore(self, values: Tensor) -> Tensor:
        """Return values (n, ...) of sorted rows in the batch's own order."""
        return torch.empty_like(values).index_copy(0, self.order, values)


class TupleTable:
    """The tuples of domains of a data set's rows.

    Args:
        tower: whose adapters and norms serve them.
        domains: integers (n, divisions) of all rows; -1 is none.
        adapters: for each division, by domain position the number of its adapter; a domain without one is left out.
    """

    def __init__(self, tower: FusedTower, domains: Tensor, adapters: Sequence[dict[int, int]]) -> None:
        tuples, self._tuple, _ = count_tuples(domains)
        names = [tower.norm_name(each) for each in tuples]
        own = [name for name, _ in tower.own_norms()]
        self.own = len(own)
        """How many norms are the tuples' own; the others follow them and are frozen."""
        others = set(names) - set(own)
        self.norms: tuple[Domains, ...] = (*own, *sorted(others))
        number = {name: i for i, name in enumerate(self.norms)}
        self._norm = torch.tensor([number[name] for name in names], dtype=torch.int64)
        present = [tower.present(each) for each in tuples]
        self._adapters = tuple(
            torch.tensor([rows.get(each[i], -1) for each in present], dtype=torch.int64)
            for i, rows in enumerate(adapters)
        )
        ranked = sorted(range(len(tuples)), key=lambda i: (names[i], tuples[i]))
        self._rank = torch.empty(len(tuples), dtype=torch.int64)
        self._rank[torch.tensor(ranked, dtype=torch.int64)] = torch.arange(len(tuples))

    def sorted(self, rows: Tensor) -> Sorted:
        """Sort the rows at some positions (n,) of the data set."""
        tuples = self._tuple[rows]
        order = torch.argsort(self._rank[tuples], stable=True)
        tuples = tuples[order]
        norms, segment, counts = torch.unique(self._norm[tuples], return_inverse=True, return_counts=True)
        groups = tuple(Groups.of(of_tuple[tuples]) for of_tuple in self._adapters)
        return Sorted(order, groups, norms, segment, counts)
