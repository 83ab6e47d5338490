"""The rows of a pack: found by one sort for all domains, and looked up once, for the embeddings are frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from network.backbone import Backbone
from network.embeddings import LookedUp
from network.inputs import NetworkShape
from training.batches import RowTensors
from training.seeds import Stream

READ_ROWS = 8192
"""Rows that are looked up or scored at a time; bounds memory, changes no result."""


class DomainRows:
    """Rows by domain of each division, as slices of one sorted column for each division.

    Args:
        rows: the data set.
        chosen: (n,) positions of the rows that count.
    """

    def __init__(self, rows: RowTensors, chosen: Tensor) -> None:
        self._sorted: list[Tensor] = []
        self._starts: list[list[int]] = []
        for place, division in enumerate(rows.divisions):
            column = rows.domains[chosen, place]
            order = torch.argsort(column, stable=True)
            starts = torch.searchsorted(column[order], torch.arange(len(division.domains) + 1))
            self._sorted.append(chosen[order])
            self._starts.append(starts.tolist())

    def of(self, division: int, domain: int) -> Tensor:
        """Return the rows of one domain, in their order; a view."""
        return self._sorted[division][self._starts[division][domain] : self._starts[division][domain + 1]]

    def count(self, division: int, domain: int) -> int:
        """How many rows one domain has."""
        return self._starts[division][domain + 1] - self._starts[division][domain]


@dataclass(frozen=True)
class Taken:
    """Some rows of a pack, as the network reads them.

    Args:
        looked: what the lookup gave.
        first: (n, d) what the first hidden linear map gives for them; None where the tower reads something else.
    """

    looked: LookedUp
    first: Tensor | None


class PackInputs:
    """The rows of a pack's domains, one domain after another, looked up.

    What is frozen and below the first adapter is computed here once, not once an epoch: the lookup, and the first
    hidden linear map.

    Args:
        backbone: frozen.
        rows: the data set.
        parts: positions of each domain's rows.
    """

    def __init__(self, backbone: Backbone, rows: RowTensors, parts: Sequence[Tensor]) -> None:
        self._widths = list(backbone.shape.widths)
        self.counts = [len(part) for part in parts]
        at = torch.cat([*parts, torch.empty(0, dtype=torch.int64)])
        shape, dtype = backbone.shape, backbone.output.weight.dtype
        self.label = rows.label[at].to(dtype)
        self._x = torch.empty(len(at), shape.input_width, dtype=dtype)
        self._first_order = torch.empty(len(at), 1, dtype=dtype) if shape.first_order else None
        self._first = torch.empty(len(at), shape.tower[0], dtype=dtype) if reads_fields(shape) else None
        self._look_up(backbone, rows, at)

    @torch.no_grad()
    def _look_up(self, backbone: Backbone, rows: RowTensors, at: Tensor) -> None:
        for start in range(0, len(at), READ_ROWS):
            part = slice(start, start + READ_ROWS)
            looked = backbone.embeddings.look_up(rows.batch(at[part]))
            self._x[part] = looked.x
            if self._first_order is not None and looked.first_order is not None:
                self._first_order[part] = looked.first_order
            if self._first is not None:
                self._first[part] = backbone.linears[0](looked.x)

    def domains(self) -> tuple[Tensor, ...]:
        """Positions of each domain's rows in here."""
        return split_domains(self.counts)

    def take(self, at: Tensor) -> Taken:
        """Return the rows at these positions (n,)."""
        return Taken(self.looked(at), None if self._first is None else self._first.index_select(0, at))

    def looked(self, at: Tensor) -> LookedUp:
        """Return what the lookup gave for the rows at these positions (n,)."""
        x = self._x.index_select(0, at)
        first_order = None if self._first_order is None else self._first_order.index_select(0, at)
        return LookedUp(x, torch.split(x, self._widths, dim=1), first_order)


def split_domains(counts: Sequence[int]) -> tuple[Tensor, ...]:
    """Return each domain's positions, where domains of so many rows stand one after another."""
    return torch.split(torch.arange(sum(counts)), list(counts))


def reads_fields(shape: NetworkShape) -> bool:
    """Whether the tower's input is the fields' vectors side by side; kind neurfm pools them first."""
    return shape.kind != "neurfm"


def row_bytes(shape: NetworkShape, itemsize: int = 4) -> int:
    """Bytes that one row takes in `PackInputs`, with its positions."""
    first = shape.tower[0] if reads_fields(shape) else 0
    return (shape.input_width + first + int(shape.first_order) + 1) * itemsize + 16


def generators(streams: Sequence[Stream], *name: str | int) -> list[torch.Generator]:
    """Return a fresh generator of a part of each stream."""
    return [stream.of(*name).generator() for stream in streams]
