"""One vector of width E for each field, whatever the field is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from network.embeddings import LookedUp
from network.inputs import NetworkShape


class FieldVectors(nn.Module):
    """Maps each field to width E: a trained field's vector is taken as it is, others are multiplied by `factor`.

    A dense field's factor is (1, E): the vector that its scalar scales. Given vectors of width w have a (w, E).

    Args:
        shape: of the backbone.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        rows = sum(shape.width_of(field) for field in shape.untrained)
        self.factor = nn.Parameter(torch.empty(rows, shape.width))
        nn.init.normal_(self.factor, std=shape.embedding_std)

    def forward(self, looked: LookedUp) -> list[Tensor]:
        """Return a vector (n, E) for each field, in field order."""
        # split, not indexed: a graph whose weights are inputs then needs no operator beyond the bundle's
        factors = iter(torch.split(self.factor, [self.shape.width_of(field) for field in self.shape.untrained]))
        return [
            vector if field.trained else vector @ next(factors)
            for field, vector in zip(self.shape.fields, looked.vectors, strict=True)
        ]

    def live(self) -> dict[str, Tensor]:
        """Return the tensors themselves, as views, under their names in a bundle."""
        return {f"factor.{name}": self.factor[at].detach() for name, at in self.shape.untrained_slices.items()}


def bi_interaction(vectors: Sequence[Tensor]) -> Tensor:
    """Return the sum over all pairs of fields of their vectors' elementwise product (n, E).

    1/2 ((sum_f v_f)^2 - sum_f v_f^2), which is the same in time linear in the fields.
    Source: Factorization Machines (Rendle, 2010), Lemma 3.1; Neural Factorization Machines (He & Chua, 2017), Eq. 4.

    Args:
        vectors: (n, E) for each field.
    """
    total = reduce(add, vectors)
    squares = reduce(add, [vector * vector for vector in vectors])
    return (total * total - squares) * 0.5
