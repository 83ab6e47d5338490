"""Which domains are trained together, and what memory that takes: known before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from network.inputs import PROJECTIONS, NetworkShape
from training.adapters import Place
from training.batches import batch_count
from training.config import Schedule
from training.errors import ConfigError
from training.packed.config import PackedConfig
from training.packed.rows import READ_ROWS, row_bytes
from training.packed.stack import Layout

_STACK_COPIES = 9
"""Copies of what is learned: itself, the best, gradient and its parts, Adam's two moments, and what a step makes. Where
steps are averaged there is one more."""
_LEVEL_COPIES = 6
"""Tensors (t, n, d) that a training step keeps of one hidden layer until its backward pass."""
_STEP_PASSING, _SCORE_PASSING = 4, 5
"""Tensors of the widest layer that one layer's pass needs beside what is kept; where nothing is learned moments are
gathered too."""
_STEP_LISTED, _SCORE_LISTED = 3, 2
"""Vectors of an entry of a row's lists that are there at a time, where they are looked up in every step."""
_MIB = 2**20


@dataclass(frozen=True)
class Size:
    """How much of a domain there is.

    Args:
        place: the domain.
        train: its training rows.
        stop: its other rows, such as those that serve early stopping.
        table_rows: rows of an embedding table of its own.
    """

    place: Place
    train: int
    stop: int
    table_rows: int = 0


@dataclass(frozen=True)
class Pack:
    """Domains that are trained together.

    Args:
        number: its place in the plan, from 1.
        places: the domains, those with most batches an epoch first.
        memory_bytes: what training it takes at most, the data set itself not counted.
    """

    number: int
    places: tuple[Place, ...]
    memory_bytes: int


@dataclass(frozen=True)
class Plan:
    """All packs of a stage.

    Args:
        packs: in the order in which they are trained.
        alone: the domains that no pack within the bound can hold: each is trained by itself.
    """

    packs: tuple[Pack, ...]
    alone: tuple[Place, ...]

    def share(self, part: int, parts: int) -> Plan:
        """Return every `parts`-th pack from the `part`-th on; the shares together are the whole plan.

        Args:
            part: from 1 to `parts`.
            parts: how many shares there are.

        Raises:
            ConfigError: there is no such share.
        """
        check_share(part, parts)
        return replace(self, packs=self.packs[part - 1 :: parts], alone=self.alone[part - 1 :: parts])

    def line(self) -> str:
        """State what will be trained, and in how much memory."""
        domains = sum(len(pack.places) for pack in self.packs)
        largest = max((pack.memory_bytes for pack in self.packs), default=0)
        rest = f"; {len(self.alone)} too large for one, each by itself" if self.alone else ""
        return f"{domains} domains in {len(self.packs)} packs of at most {largest / _MIB:,.0f} MiB{rest}"


class Footprint:
    """The memory of a pack.

    Args:
        shape: the backbone's.
        layout: of what a domain has of its own, an embedding table of its own left out.
        schedule: of the stage.
        itemsize: bytes of a float.
        listed: entries of all lists of a row, where they are looked up in every step.
    """

    def __init__(
        self, shape: NetworkShape, layout: Layout, schedule: Schedule, itemsize: int = 4, listed: int = 0
    ) -> None:
        self.schedule = schedule
        self._row_bytes = row_bytes(shape, itemsize)
        average = int(schedule.average is not None)
        copies = _STACK_COPIES + average
        self._domain_bytes = (copies * layout.learned_width + (6 + average) * layout.moments_width) * itemsize
        columns = shape.width + int(shape.first_order)
        step = kept_floats(shape) + passing_floats(shape, _STEP_PASSING) + _STEP_LISTED * listed * columns
        score = passing_floats(shape, _SCORE_PASSING) + _SCORE_LISTED * listed * columns
        self._step_bytes, self._score_bytes = step * itemsize, score * itemsize
        self._table_row_bytes = (copies + 2) * columns * itemsize

    def of(self, domains: int, rows: int, batch_rows: int, table_rows: int = 0) -> int:
        """Return the bytes that training takes at most.

        Args:
            domains: in the pack.
            rows: their training and validation rows together.
            batch_rows: rows of the largest batch of one of them.
            table_rows: rows of the largest embedding table of one of them.
        """
        step = domains * batch_rows * self._step_bytes
        score = max(min(rows, READ_ROWS), domains) * self._score_bytes
        own = self._domain_bytes + table_rows * self._table_row_bytes
        return domains * own + rows * self._row_bytes + max(step, score)


def check_share(part: int, parts: int) -> None:
    """Refuse what is no share.

    Raises:
        ConfigError: `part` is not one of 1 to `parts`.
    """
    if not 1 <= part <= parts:
        raise ConfigError(f"there is no share {part} of {parts}: give one from 1/{parts} to {parts}/{parts}")


def kept_floats(shape: NetworkShape) -> int:
    """Numbers that a training step keeps of one row until its backward pass."""
    k = shape.input_width
    floats = k + _LEVEL_COPIES * sum(shape.tower)
    if shape.kind in ("dcn", "dcn_v2"):
        floats += _LEVEL_COPIES * k * shape.cross_layers
    if shape.kind in ("deepfm", "neurfm", "autoint"):
        floats += _LEVEL_COPIES * shape.width * len(shape.fields)
    if shape.kind == "autoint":
        fields, width = len(shape.fields), shape.heads * shape.head_width
        floats += shape.attention_layers * fields * (2 * len(PROJECTIONS) * width + 3 * shape.heads * fields)
    return floats


def passing_floats(shape: NetworkShape, copies: int) -> int:
    """Numbers of one row that the pass through one layer needs at a time, of so many tensors of the widest."""
    widest, fields = max(*shape.tower, shape.input_width), len(shape.fields)
    if shape.kind in ("deepfm", "neurfm"):
        widest = max(widest, fields * shape.width)
    if shape.kind == "autoint":  # a layer's four maps and its heads are there at a time: measured, twice the widest
        widest = max(widest, 2 * fields * max(shape.width, shape.heads * max(shape.head_width, fields)))
    return shape.input_width + copies * widest


def plan(sizes: Iterable[Size], footprint: Footprint, config: PackedConfig) -> Plan:
    """Sort domains by size and cut them into packs, each within the bound on memory.

    The plan depends on the sizes, the shapes and the settings alone, so that every machine finds the same one.

    Args:
        sizes: of all domains.
        footprint: what memory packs take.
        config: the bounds.
    """
    bound, schedule = config.memory_mib * _MIB, footprint.schedule
    ordered = sorted(
        sizes, key=lambda size: (-batch_count(size.train, schedule.batch_rows, schedule.min_batches), -size.train)
    )  # stable
    costs = {size.place: _running_costs([size], footprint)[0] for size in ordered}
    together = [size for size in ordered if costs[size.place] <= bound]
    packs: list[Pack] = []
    while together:
        cost = _running_costs(together[: config.domains], footprint)
        count = sum(each <= bound for each in cost)  # costs grow, so these are the first ones
        packs.append(Pack(len(packs) + 1, tuple(size.place for size in together[:count]), cost[count - 1]))
        together = together[count:]
    return Plan(tuple(packs), tuple(size.place for size in ordered if costs[size.place] > bound))


def _running_costs(sizes: Sequence[Size], footprint: Footprint) -> list[int]:
    """Bytes of the pack of the first domain, of the first two, and so on."""
    rows = accumulate(size.train + size.stop for size in sizes)
    batches = accumulate((_largest_batch(size, footprint.schedule) for size in sizes), max)
    tables = accumulate((size.table_rows for size in sizes), max)
    return [footprint.of(i, n, b, r) for i, (n, b, r) in enumerate(zip(rows, batches, tables, strict=True), 1)]


def _largest_batch(size: Size, schedule: Schedule) -> int:
    return max(1, math.ceil(size.train / batch_count(size.train, schedule.batch_rows, schedule.min_batches)))
