"""What goes into the network: the shape of each field, and a batch of encoded rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

from torch import Tensor

from network.errors import ShapeError

Kind = Literal["mlp", "wide_deep", "deepfm", "dcn", "dcn_v2", "neurfm", "autoint"]
"""The network family; methods.md 1 and docs/backbones.md have the formulas."""

FIRST_ORDER: frozenset[Kind] = frozenset({"wide_deep", "deepfm", "neurfm"})
"""Kinds with one weight for each feature value."""

FIELD_VECTORS: frozenset[Kind] = frozenset({"deepfm", "neurfm", "autoint"})
"""Kinds that need a vector of width E of every field, dense and frozen ones included."""

PROJECTIONS = ("query", "key", "value", "residual")
"""The linear maps of one attention layer, in the order in which they are numbered."""


@dataclass(frozen=True)
class FieldShape:
    """One input field as the network sees it.

    Args:
        name: the field's name.
        kind: sparse (one row of a table), multi_hot (the mean of several) or dense (a scalar).
        rows: rows of its embedding table, row 0 (out of vocabulary) included; 0 for dense.
        given_width: width of a sparse field's given vectors, which are never trained; 0 where its table is trained.

    Raises:
        ShapeError: given vectors of a field that is not sparse.
    """

    name: str
    kind: Literal["sparse", "multi_hot", "dense"]
    rows: int = 0
    given_width: int = 0

    def __post_init__(self) -> None:
        if self.given_width and self.kind != "sparse":
            raise ShapeError(f"field {self.name!r} is {self.kind}: given vectors belong to a sparse field")

    @property
    def trained(self) -> bool:
        """Whether it has rows in the trained table."""
        return self.kind != "dense" and not self.given_width


@dataclass(frozen=True)
class ModuleShape:
    """A linear map that adapters may adapt.

    Args:
        name: in bundles and artifacts, such as `tower.0`, `cross.1`, `attention.0.query`.
        inputs: k.
        outputs: d.
        norm: whether a norm follows it.
    """

    name: str
    inputs: int
    outputs: int
    norm: bool = False


@dataclass(frozen=True)
class NetworkShape:
    """Everything that fixes a backbone's tensors.

    Args:
        fields: the input fields, in the order in which their vectors stand side by side.
        width: embedding width E of every sparse and multi-hot field whose table is trained.
        tower: output width of each hidden layer.
        dropout: probability of the backbone's own dropout.
        norm_eps: added to a variance before its root.
        norm_momentum: share of a batch's moments that enters the running ones.
        embedding_std: standard deviation of the tables' normal start.
        kind: the network family.
        norm: whether a norm follows each hidden layer.
        cross_layers: of kinds dcn and dcn_v2.
        attention_layers, heads, head_width: of kind autoint.
    """

    fields: tuple[FieldShape, ...]
    width: int = 16
    tower: tuple[int, ...] = (256, 128)
    dropout: float = 0.2
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    embedding_std: float = 1e-4
    kind: Kind = "mlp"
    norm: bool = True
    cross_layers: int = 3
    attention_layers: int = 3
    heads: int = 2
    head_width: int = 8

    def width_of(self, field: FieldShape) -> int:
        """Width of a field's vector: E, 1 for a dense field, its own for given vectors."""
        return 1 if field.kind == "dense" else field.given_width or self.width

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each field's vector, in field order."""
        return tuple(self.width_of(field) for field in self.fields)

    @property
    def first_order(self) -> bool:
        """Whether there is one weight for each feature value."""
        return self.kind in FIRST_ORDER

    @property
    def untrained(self) -> tuple[FieldShape, ...]:
        """The fields without a trained table: dense ones, and those of given vectors."""
        return tuple(field for field in self.fields if not field.trained)

    @property
    def untrained_slices(self) -> dict[str, slice]:
        """Where each field of `untrained` stands when their vectors lie side by side."""
        ends = list(accumulate((self.width_of(field) for field in self.untrained), initial=0))
        return {f.name: slice(a, b) for f, a, b in zip(self.untrained, ends, ends[1:], strict=False)}

    @property
    def input_width(self) -> int:
        """Width k of all fields' vectors side by side."""
        return sum(self.widths)

    @property
    def tower_input(self) -> int:
        """Input width of the tower: k, or E where the fields are pooled first."""
        return self.width if self.kind == "neurfm" else self.input_width

    @property
    def beside_width(self) -> int:
        """Width of what stands beside the tower's output before the output layer."""
        if self.kind in ("dcn", "dcn_v2"):
            return self.input_width
        return len(self.fields) * self.heads * self.head_width if self.kind == "autoint" else 0

    @property
    def output_width(self) -> int:
        """Input width of the output layer."""
        return self.beside_width + self.tower[-1]

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """(input width k, output width d) of each hidden layer of the tower."""
        return tuple(zip((self.tower_input, *self.tower[:-1]), self.tower, strict=True))

    @property
    def modules(self) -> tuple[ModuleShape, ...]:
        """Every linear map that may be adapted: the tower's, bottom to top, then those of the interaction."""
        tower = (ModuleShape(f"tower.{level}", k, d, self.norm) for level, (k, d) in enumerate(self.layers))
        return (*tower, *self._interaction_modules())

    def _interaction_modules(self) -> tuple[ModuleShape, ...]:
        if self.kind == "dcn_v2":
            k = self.input_width
            return tuple(ModuleShape(f"cross.{level}", k, k) for level in range(self.cross_layers))
        if self.kind == "autoint":
            d = self.heads * self.head_width
            inputs = (self.width, *[d] * (self.attention_layers - 1))
            return tuple(
                ModuleShape(f"attention.{level}.{projection}", k, d)
                for level, k in enumerate(inputs)
                for projection in PROJECTIONS
            )
        return ()


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
