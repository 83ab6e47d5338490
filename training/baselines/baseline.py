"""What every baseline has: its embeddings, rows sorted by domain, and the phases in which it is trained."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from network.embeddings import FieldEmbeddings
from network.errors import ShapeError
from network.grouping import Grouping, group
from network.inputs import Batch, NetworkShape
from training.baselines.layers import Recipe
from training.errors import ConfigError
from training.frameworks.structure import Structure


class Baseline(Structure):
    """A network of several domains over the embedded fields.

    Args:
        shape: fields, widths and constants; as for the backbone.
        domains: how many natural domains there are.
    """

    phases: ClassVar[tuple[str, ...]] = ("train",)
    """What it is trained in, one after another; a runner calls `enter` before each. A checkpoint does not know it."""

    def __init__(self, shape: NetworkShape, domains: int) -> None:
        super().__init__()
        if domains < 1:
            raise ShapeError(f"a baseline needs at least one domain, got {domains}")
        if shape.kind != "mlp":
            raise ShapeError(f"a baseline stands on the kind mlp, got {shape.kind}; its tower is the baseline's own")
        self.shape = shape
        self.domains = domains
        self.recipe = Recipe.of(shape)
        self.embeddings = FieldEmbeddings(shape)

    def forward(self, batch: Batch, domain: Tensor) -> Tensor:
        """Return the logits (n,) of encoded rows.

        Args:
            batch: n rows, of one domain or of several.
            domain: integers (n,), the position of each row's natural domain.

        Raises:
            ShapeError: a domain that the network does not have, or not one domain for each row.
        """
        return self.score(self.embeddings(batch), domain)

    def score(self, x: Tensor, domain: Tensor) -> Tensor:
        """Return the logits (n,) of embedded rows x (n, k); arguments and errors as for `forward`."""
        if len(x) != len(domain):
            raise ShapeError(f"{len(x)} rows with {len(domain)} domains: give one domain for each row")
        if len(x) == 0:
            return x.new_zeros(0)
        if int(domain.min()) < 0 or int(domain.max()) >= self.domains:
            found = f"{int(domain.min())} to {int(domain.max())}"
            raise ShapeError(f"the rows are of domains {found}; the network has 0 to {self.domains - 1}")
        grouping = group(domain.unsqueeze(1), lambda found: found)
        return grouping.restore(self._logits(x.index_select(0, grouping.order), grouping))

    @abstractmethod
    def _logits(self, x: Tensor, grouping: Grouping) -> Tensor:
        """Logits (n,) of rows x (n, k) that are sorted by domain."""

    def enter(self, phase: str) -> None:
        """Make trainable what this phase trains, and all else constant.

        Raises:
            ConfigError: there is no such phase.
        """
        if phase not in self.phases:
            raise ConfigError(f"{type(self).__name__} has no phase {phase!r}; it has {', '.join(self.phases)}")
        self.requires_grad_(True)


def by_domain(grouping: Grouping, score: Callable[[int, slice], Tensor]) -> Tensor:
    """Return what `score` gives for each domain and the slice of its sorted rows, in the sorted order."""
    return torch.cat([score(run.domains[0], slice(run.start, run.stop)) for run in grouping.runs])
