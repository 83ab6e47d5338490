"""Which rows belong to which natural domain, and what each serves."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from training.batches import RowTensors
from training.dataset import Split
from training.errors import ConfigError

_SHOWN = 20  # names in a message


@dataclass(frozen=True)
class DomainRows:
    """Row positions of each natural domain, (n_i,) int64, in ascending order; a list has one entry a domain.

    Args:
        names: of the domains.
        train: what weights are fitted on.
        stop: early stopping and selection.
        gate: the publish gate alone.
        test: what is reported.
    """

    names: tuple[str, ...]
    train: tuple[Tensor, ...]
    stop: tuple[Tensor, ...]
    gate: tuple[Tensor, ...]
    test: tuple[Tensor, ...]

    @classmethod
    def of(cls, rows: RowTensors, split: Split) -> DomainRows:
        """Sort the rows of a split by natural domain; rows of none are left out."""
        names = tuple(rows.divisions[0].domains)
        served = (split.train, split.stop, split.gate, split.test)
        parts = [_by_domain(rows, torch.from_numpy(part), len(names)) for part in served]
        return cls(names, *parts)

    def __len__(self) -> int:
        return len(self.names)

    def without(self, names: Collection[str]) -> DomainRows:
        """Return the same with no training and no `stop` rows of these domains.

        Raises:
            ConfigError: there is no domain of such a name.
        """
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            raise ConfigError(
                f"left_out names domains that the data does not have: {', '.join(unknown)}; "
                f"it has {_listed(self.names)}"
            )
        train = tuple(part[:0] if name in names else part for name, part in zip(self.names, self.train, strict=True))
        stop = tuple(part[:0] if name in names else part for name, part in zip(self.names, self.stop, strict=True))
        return DomainRows(self.names, train, stop, self.gate, self.test)

    @cached_property
    def trained(self) -> tuple[int, ...]:
        """Positions of the domains that have training rows, ascending."""
        return tuple(i for i, rows in enumerate(self.train) if len(rows) > 0)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _by_domain(rows: RowTensors, positions: Tensor, count: int) -> tuple[Tensor, ...]:
    domain = rows.domains[positions, 0]
    order = torch.argsort(domain, stable=True)
    sizes = torch.bincount(domain + 1, minlength=count + 1).tolist()  # the first counts rows of no domain
    return torch.split(positions[order], sizes)[1:]
