"""What a worker trains some domains on: their rows in a small vocabulary, and the network of that size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from network.inputs import Batch, NetworkShape
from training.batches import RowTensors
from training.cluster.local import LocalView
from training.cluster.partitions import PARTS, Partition
from training.frameworks.config import MamdrConfig
from training.frameworks.domains import DomainRows
from training.frameworks.setting import Setting
from training.frameworks.structure import Structure
from training.seeds import Stream

Rows = NDArray[np.int64]
StructureOf = Callable[[NetworkShape], Structure]


class PartitionRows(RowTensors):
    """The rows of some domains one after another, as frameworks read them.

    Args:
        partitions: by domain position.
    """

    def __init__(self, partitions: Mapping[int, Partition]) -> None:
        parts = list(partitions.values())
        self._whole = Partition(
            sparse=torch.cat([part.sparse for part in parts]),
            dense=torch.cat([part.dense for part in parts]),
            lists={name: torch.cat([part.lists[name] for part in parts]) for name in parts[0].lists},
            label=torch.cat([part.label for part in parts]),
            row=torch.cat([part.row for part in parts]),
            part=torch.cat([part.part for part in parts]),
        )
        self.label = self._whole.label
        self.divisions = ()
        owner = [torch.full((len(part.label),), domain) for domain, part in partitions.items()]
        self.domains = torch.cat(owner).unsqueeze(1)

    def batch(self, rows: Tensor) -> Batch:
        """Return the encoded rows at these positions (n,) int64."""
        return self._whole.batch(rows)


@dataclass(frozen=True)
class SomeDomains(DomainRows):
    """Domains of which only some have their rows here.

    Args:
        with_rows: positions of the domains that have training rows, here or elsewhere.
    """

    with_rows: tuple[int, ...] = ()

    @cached_property
    def trained(self) -> tuple[int, ...]:
        """Positions of the domains that have training rows, ascending."""
        return self.with_rows


@dataclass(frozen=True)
class Scene:
    """Some domains, ready to be trained on.

    Args:
        view: their part of the table.
        setting: as frameworks take it, over rows of that part.
        rows: the rows, also found in `setting`.
    """

    view: LocalView
    setting: Setting
    rows: PartitionRows

    @classmethod
    def of(
        cls,
        partitions: Mapping[int, Partition],
        names: Sequence[str],
        trained: tuple[int, ...],
        shape: NetworkShape,
        structure_of: StructureOf,
        config: MamdrConfig,
        stream: Stream,
    ) -> Scene:
        """Set a scene.

        Args:
            partitions: rows of whole vocabularies, by domain position.
            names: of all domains.
            trained: domains that may be drawn, those with training rows.
            shape: of the whole network.
            structure_of: makes the network of a shape; its own weights are not used.
            config: the keys of the method.
            stream: of the run.
        """
        view = LocalView.of(shape, list(partitions.values()))
        rows = PartitionRows({domain: view.localized(part) for domain, part in partitions.items()})
        domains = _domain_rows(partitions, names, trained)
        return cls(view, Setting(structure_of(view.shape), rows, domains, config, stream), rows)

    def touched(self, batches: Iterable[Tensor]) -> tuple[Rows, int]:
        """Return which places of the small table some batches read (u,), ascending, and the sum of each batch's own."""
        each = [self.setting.structure.touched(self.rows.batch(positions)).numpy() for positions in batches]
        if not each:
            return np.empty(0, np.int64), 0
        return np.unique(np.concatenate(each)), sum(map(len, each))

    def table(self, places: Rows, values: NDArray[np.float32]) -> Tensor:
        """Return a small table (m, E) with these values (u, E) at these places (u,) and none elsewhere.

        Where nothing was pulled stands NaN, so that a use of it shows; where padding points stands zero.
        """
        table = torch.full((len(self.view.ids), values.shape[1]), float("nan"))
        table[torch.from_numpy(self.view.padding)] = 0.0
        table[torch.from_numpy(places)] = torch.tensor(values)
        return table


def _domain_rows(partitions: Mapping[int, Partition], names: Sequence[str], trained: tuple[int, ...]) -> SomeDomains:
    """Positions of each domain's rows when the partitions lie one after another."""
    none = torch.empty(0, dtype=torch.int64)
    found = {part: [none] * len(names) for part in PARTS}
    start = 0
    for domain, partition in partitions.items():
        for part in PARTS:
            found[part][domain] = partition.of(part) + start
        start += len(partition.label)
    train, stop, gate, test = (tuple(found[part]) for part in PARTS)
    return SomeDomains(tuple(names), train, stop, gate, test, trained)
