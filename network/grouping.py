"""A mixed batch sorted by its tuples of domains, so that each tuple is one contiguous run of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Domains = tuple[int, ...]
"""One domain position for each division, the natural one first; -1 where a division has none."""


def drop_last(domains: Domains) -> Domains:
    """Return the tuple without its last present division."""
    last = max((i for i, d in enumerate(domains) if d >= 0), default=-1)
    return tuple(-1 if i == last else d for i, d in enumerate(domains))


def frequent(rows: Mapping[Domains, int], min_rows: int) -> list[Domains]:
    """Return the tuples of at least two present divisions that serve some row and have enough rows, sorted.

    A tuple's rows are all rows that lie in each of its domains, whatever else they lie in.

    Args:
        rows: training rows of each complete tuple.
        min_rows: a tuple with fewer drops its last present division (methods.md 2).
    """

    # rows by what stands in some divisions, whatever else they lie in: counted once for each choice of divisions, since
    # every tuple against every other takes hours for tens of thousands of domains
    counted: dict[tuple[int, ...], Counter[Domains]] = {}

    def inside(part: Domains) -> int:
        present = tuple(i for i, d in enumerate(part) if d >= 0)
        if present not in counted:
            counted[present] = Counter()
            for whole, n in rows.items():
                counted[present][tuple(whole[i] for i in present)] += n
        return counted[present][tuple(part[i] for i in present)]

    found: set[Domains] = set()
    for whole in rows:
        part = whole
        while sum(d >= 0 for d in part) > 1 and part not in found:
            if inside(part) >= min_rows:
                found.add(part)
            else:
                part = drop_last(part)
    return sorted(found)


@dataclass(frozen=True)
class Run:
    """Rows `start` to `stop` (exclusive), all of one tuple of domains."""

    domains: Domains
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class Grouping:
    """An order of a batch's rows.

    Args:
        order: (n,) int64, the positions of the rows in sorted order.
        runs: the tuples' runs, in order; they cover all rows.
        norm_runs: the same rows joined where neighbouring tuples share a norm; `domains` names the norm.
    """

    order: Tensor
    runs: tuple[Run, ...]
    norm_runs: tuple[Run, ...]

    def restore(self, values: Tensor) -> Tensor:
        """Return values (n, ...) of sorted rows in the batch's own order."""
        return torch.empty_like(values).index_copy(0, self.order, values)


def count_tuples(domains: Tensor) -> tuple[list[Domains], Tensor, list[int]]:
    """Find the different rows of integers (n, divisions).

    Each row is read as one number: torch's own unique of rows compares them one by one, which took a sixth of a step.

    Returns:
        The tuples, for each row the position (n,) int64 of its tuple, and how many rows each tuple has.
    """
    if len(domains) == 0:
        return [], torch.empty(0, dtype=torch.int64), []
    places = domains.to(torch.int64) + 1
    sizes = places.amax(dim=0) + 1
    strides = torch.cat([sizes.new_ones(1), sizes[:-1].cumprod(0)])
    codes, inverse, counts = torch.unique((places * strides).sum(1), return_inverse=True, return_counts=True)
    rows = codes[:, None] // strides % sizes - 1
    return [tuple(row) for row in rows.tolist()], inverse, counts.tolist()


def group(domains: Tensor, norm_of: Callable[[Domains], Domains]) -> Grouping:
    """Sort rows by the norm that serves them, then by their tuple; equal rows keep their order.

    A row's own matrices would be a gather of n x r x k numbers; a loop over the tuples present costs one small matrix
    product for each instead. For T tuples and L layers that is about T x L x 15 torch calls a step.

    Args:
        domains: integers (n, divisions), -1 where a row has no domain in a division.
        norm_of: names the norm that serves a tuple.
    """
    tuples, inverse, counts = count_tuples(domains)
    ranked = sorted(range(len(tuples)), key=lambda i: (norm_of(tuples[i]), tuples[i]))
    rank = torch.empty(len(tuples), dtype=torch.int64)
    rank[torch.tensor(ranked, dtype=torch.int64)] = torch.arange(len(tuples))
    runs: list[Run] = []
    norm_runs: list[Run] = []
    start = 0
    for i in ranked:
        stop = start + counts[i]
        runs.append(Run(tuples[i], start, stop))
        norm = norm_of(tuples[i])
        if norm_runs and norm_runs[-1].domains == norm:
            norm_runs[-1] = Run(norm, norm_runs[-1].start, stop)
        else:
            norm_runs.append(Run(norm, start, stop))
        start = stop
    return Grouping(torch.argsort(rank[inverse], stable=True), tuple(runs), tuple(norm_runs))
