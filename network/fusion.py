"""Fusion: how the LoRA outputs of a sample's divisions combine. Source: MultiLoRA, Eq. 10; methods.md 2, stage 3."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from network.errors import ShapeError
from network.inputs import NetworkShape
from network.lora import check_ranks

Mode = Literal["attention", "add", "avg", "single"]
Divisor = Literal["r", "sqrt_r"]


class Fusion(nn.Module):
    """The shared attention over divisions: w = softmax(q . k_i / divisor), q = WQ h0, k_i = WK h_i.

    Source: MultiLoRA, Eq. 10.
    departs from the paper: WQ and WK are r x d, as Eq. 10 multiplies them; the paper's count implies r x k.

    Args:
        shape: the backbone's shape.
        ranks: fusion rank rf of each adaptable module, in the order of `NetworkShape.modules`; 0 where none is adapted.
        divisor: r as printed, or its root.
        zero_key: start with WK = 0, which is the average of the divisions.
        generator: random source of the Xavier start.

    Raises:
        ShapeError: there is not one rank for each module, or all are 0.
    """

    def __init__(
        self,
        shape: NetworkShape,
        ranks: Sequence[int],
        divisor: Divisor = "r",
        zero_key: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_ranks(shape, ranks)
        self.shape = shape
        self.divisor: Divisor = divisor
        sizes = [(r, module.outputs) for r, module in zip(ranks, shape.modules, strict=True)]
        self.query = nn.ParameterList(torch.empty(size) for size in sizes)
        self.key = nn.ParameterList(torch.zeros(size) for size in sizes)
        for query, key in zip(self.query, self.key, strict=True):
            if not len(query):  # not adapted: nothing to learn, and nothing that an optimizer should see
                query.requires_grad_(False)
                key.requires_grad_(False)
                continue
            nn.init.xavier_uniform_(query, generator=generator)
            if not zero_key:
                nn.init.xavier_uniform_(key, generator=generator)

    def weights(self, level: int, query: Tensor, outputs: Tensor) -> Tensor:
        """Return each division's weight (n, m).

        Args:
            level: number of the module.
            query: (n, rf), from `queries`.
            outputs: (m, n, d) the LoRA outputs of the divisions that are present.

        For a module that maps every field of a row, n stands for (n, F) throughout.
        """
        keys = functional.linear(outputs, self.key[level])
        rank = query.shape[-1]
        scores = (keys * query).sum(-1) / (rank if self.divisor == "r" else math.sqrt(rank))
        return torch.softmax(scores, dim=0).movedim(0, -1)

    def queries(self, level: int, h0: Tensor) -> Tensor:
        """Return q (n, rf) of the backbone's pre-activation h0 (n, d)."""
        return functional.linear(h0, self.query[level])

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor under its name in an artifact, each a detached copy."""
        return {name: value.clone() for name, value in self._live().items()}

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take every tensor from an artifact's names."""
        for name, own in self._live().items():
            if tensors[name].shape != own.shape:
                raise ShapeError(f"{name} has shape {tuple(tensors[name].shape)}, this fusion needs {tuple(own.shape)}")
            own.copy_(tensors[name])

    def _live(self) -> dict[str, Tensor]:
        return {
            f"fusion.{module.name}.{kind}": value.detach()
            for kind, values in (("query", self.query), ("key", self.key))
            for module, value in zip(self.shape.modules, values, strict=True)
            if len(value)
        }
