"""The one interface of every network that a framework trains.

The parameters of a structure are theta in methods.md 3. Its sparse and multi-hot tables are ONE parameter, so that the
rows which a batch changes are known; everything else is dense. Norms' moments are buffers, not parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from network.backbone import Backbone
from network.embeddings import FieldEmbeddings
from network.inputs import Batch
from network.norm import DomNorm

TABLE = "embeddings.table"
"""Name of the one parameter that holds all sparse and multi-hot tables."""


class Structure(nn.Module):
    """A network that scores rows of one or of several domains at once.

    In eval mode no batch statistic is used. The domain's id as an input field is the data set's affair (a field
    `of: domain`); `domain` is for what a structure does per domain.
    """

    embeddings: FieldEmbeddings
    batched: ClassVar[bool] = False
    """Whether `torch.func.vmap` can run it: what it does must not depend on the values of its inputs."""
    one_domain_batches: ClassVar[bool] = False
    """Whether mixed training gives it batches of one domain each: norms of a domain's own need its rows together."""

    def forward(self, batch: Batch, domain: Tensor) -> Tensor:
        """Return the logits (n,) float32.

        Args:
            batch: n encoded rows.
            domain: (n,) int64, each row's position in the natural division.
        """
        raise NotImplementedError

    def under(self, weights: Mapping[str, Tensor], batch: Batch, domain: Tensor) -> Tensor:
        """Return the logits (n,) that these parameters, by name, give in the place of the network's own.

        torch's default looks for tied weights, finds a module that has two names, puts it back wrongly and leaves the
        given weights inside. Structures may share modules, not single parameters.
        """
        logits: Tensor = functional_call(self, dict(weights), (batch, domain), tie_weights=False)
        return logits

    def touched(self, batch: Batch) -> Tensor:
        """Return the rows of `embeddings.table` that a batch uses, sorted and unique (u,) int64."""
        sparse = [f.name for f in self.embeddings.shape.fields if f.kind == "sparse"]
        trained = [column for column, name in enumerate(sparse) if name in self.embeddings.starts]
        parts = [(batch.sparse[:, trained] + self.embeddings.sparse_starts).flatten()]
        for name, values in batch.multi_hot.items():
            parts.append(values[values >= 0].to(torch.int64) + self.embeddings.starts[name])
        rows: Tensor = torch.unique(torch.cat(parts))
        return rows

    def dense_parameters(self) -> Iterator[nn.Parameter]:
        """Every parameter but `embeddings.table`."""
        return (parameter for name, parameter in self.named_parameters() if name != TABLE)

    def shared_names(self) -> tuple[str, ...]:
        """Names of the dense parameters that theta_S trains; all of them unless a structure says otherwise."""
        return tuple(name for name, _ in self.named_parameters() if name != TABLE)

    def specific_names(self) -> tuple[str, ...]:
        """Names of the dense parameters that a theta_i changes; all of them unless a structure says otherwise."""
        return tuple(name for name, _ in self.named_parameters() if name != TABLE)

    def specific_start(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return those entries of a theta_i that do not start at zero; none unless a structure says otherwise."""
        return {}

    def theta(self) -> dict[str, Tensor]:
        """Return every parameter by name, each a detached copy."""
        return {name: value.detach().clone() for name, value in self.named_parameters()}

    def moments(self) -> dict[str, Tensor]:
        """Return the norms' running moments by name, each a copy; empty for a structure without norms."""
        return {name: value.clone() for name, value in self._moments()}

    @torch.no_grad()
    def load_moments(self, moments: dict[str, Tensor]) -> None:
        """Take running moments, as `moments` gave them."""
        for name, own in self._moments():
            own.copy_(moments[name])

    def norms(self) -> Iterator[DomNorm]:
        """Every norm with running moments of its own."""
        return (module for module in self.modules() if isinstance(module, DomNorm))

    @contextmanager
    def sparse_gradients(self) -> Iterator[None]:
        """Let the table's gradient be a sparse tensor of the batch's rows inside the block."""
        before = self.embeddings.sparse_gradient
        self.embeddings.sparse_gradient = True
        try:
            yield
        finally:
            self.embeddings.sparse_gradient = before

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        """Persistent floating-point buffers: running moments, not constants."""
        kept = self.state_dict(keep_vars=True)
        return ((name, value) for name, value in self.named_buffers() if name in kept and value.is_floating_point())


class PlainStructure(Structure):
    """A backbone as it is; only its input fields know the domain.

    Args:
        backbone: of any kind.
    """

    batched = True

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.embeddings = backbone.embeddings
        self.backbone = backbone

    def forward(self, batch: Batch, domain: Tensor) -> Tensor:
        """Return the backbone's logits (n,)."""
        logits: Tensor = self.backbone(batch)
        return logits
