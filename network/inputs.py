"""What goes into the network: the shape of each field, and a batch of encoded rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor


@dataclass(frozen=True)
class FieldShape:
    """One input field as the network sees it.

    Args:
        name: the field's name.
        kind: sparse (one row of a table), multi_hot (the mean of several) or dense (a scalar).
        rows: rows of its embedding table, row 0 (out of vocabulary) included; 0 for dense.
    """

    name: str
    kind: Literal["sparse", "multi_hot", "dense"]
    rows: int = 0


@dataclass(frozen=True)
class NetworkShape:
    """Everything that fixes a backbone's tensors.

    Args:
        fields: the input fields, in the order in which their vectors stand side by side.
        width: embedding width E of every sparse and multi-hot field.
        tower: output width of each hidden layer.
        dropout: probability of the backbone's own dropout.
        norm_eps: added to a variance before its root.
        norm_momentum: share of a batch's moments that enters the running ones.
        embedding_std: standard deviation of the tables' normal start.
    """

    fields: tuple[FieldShape, ...]
    width: int = 16
    tower: tuple[int, ...] = (256, 128)
    dropout: float = 0.2
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    embedding_std: float = 1e-4

    @property
    def input_width(self) -> int:
        """Width k of the tower's input: E for each sparse or multi-hot field, 1 for each dense one."""
        return sum(1 if f.kind == "dense" else self.width for f in self.fields)

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """(input width k, output width d) of each hidden layer."""
        return tuple(zip((self.input_width, *self.tower[:-1]), self.tower, strict=True))


@dataclass(frozen=True)
class Batch:
    """Encoded rows as tensors.

    Args:
        sparse: integers (n, Fs), a vocabulary row for each sparse field, in field order.
        dense: float (n, Fd), one scalar for each dense field, in field order.
        multi_hot: for each multi-hot field integers (n, L), vocabulary rows padded with -1.
    """

    sparse: Tensor
    dense: Tensor
    multi_hot: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.sparse.shape[0])

    def take(self, rows: Tensor) -> Batch:
        """Return the rows at these positions, in this order."""
        lists = {name: values[rows] for name, values in self.multi_hot.items()}
        return Batch(self.sparse[rows], self.dense[rows], lists)
