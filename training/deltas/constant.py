"""What of a delta is the same for every row of its domain: the domain's own row, in tables that are read by domain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from features.fields import Field
from features.vocabulary import Vocabulary
from network.inputs import NetworkShape


@dataclass(frozen=True)
class Constant:
    """A delta, parted.

    Args:
        x: (k,) what the domain's own rows add to the input of the tower; zeros where there is none.
        rest: the delta without the tables that `x` stands for; their other rows are other domains', and never read.
    """

    x: Tensor
    rest: dict[str, Tensor]


def constant_of(
    shape: NetworkShape, fields: Iterable[Field], vocabulary: Vocabulary, delta: Mapping[str, Tensor], domain: str
) -> Constant:
    """Take the domain's own rows from a delta. A kind of which more than the tower reads the input keeps all as it is.

    Args:
        shape: of the network.
        fields: of the data set, in the network's order.
        vocabulary: of the data set, to find the domain's row.
        delta: by a bundle's names.
        domain: whose delta it is.
    """
    x, rest, start = torch.zeros(shape.input_width, dtype=torch.float64), dict(delta), 0
    for field, width in zip(fields, shape.widths, strict=True):
        name = f"embedding.{field.name}"
        by_domain = field.of == "domain" and field.kind == "sparse" and not field.frozen
        if shape.kind == "mlp" and by_domain and name in rest:
            row = int(vocabulary.rows(field.name, [domain])[0])
            if row:  # row 0 is that of all domains that training never saw
                x[start : start + width] = rest.pop(name)[row].double()
        start += width
    return Constant(x, rest)
