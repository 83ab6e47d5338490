"""Id overlays: row-sparse deltas of id embeddings as this domain's own rows (methods.md 2 and 4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor

from features.fields import Field
from features.index import RawIndex
from features.overlay import CodedRows, OverlaidSide, id_tensors
from features.vocabulary import Vocabulary
from training.golden import Dtype

TORCH = {"float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class OverlayRows:
    """A domain's own embeddings of one side's ids.

    Args:
        side: whose ids.
        field: the id field whose vectors they replace.
        ids: the raw ids, sorted.
        rows: (n, E), in the order of `ids`.
        first_order: (n,) first-order weights, where the backbone's kind has them.
        coded: the rows in the form that an artifact holds them in, where that is not a number a coordinate.
    """

    side: OverlaidSide
    field: str
    ids: RawIndex
    rows: Tensor
    first_order: Tensor | None = None
    coded: CodedRows | None = None

    def stored(self, dtype: Dtype) -> OverlayRows:
        """The same as an artifact holds it: rounded to `dtype`."""
        weights = None if self.first_order is None else self.first_order.to(TORCH[dtype])
        return OverlayRows(self.side, self.field, self.ids, self.rows.to(TORCH[dtype]), weights)

    def in_bits(self, bits: int) -> OverlayRows:
        """The same as an artifact holds it in so many bits a coordinate.

        Raises:
            InvalidValue: a value is not finite.
        """
        coded = CodedRows.of(self.rows.float().numpy(), bits)
        return replace(self.stored("float16"), rows=torch.from_numpy(coded.rows()), coded=coded)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tensors `overlay.<side>.*` of an artifact."""
        prefix = f"overlay.{self.side}"
        rows = {"rows": self.rows.numpy()} if self.coded is None else self.coded.tensors()
        found = id_tensors(self.ids, prefix) | {f"{prefix}.{part}": value for part, value in rows.items()}
        if self.first_order is not None:
            found[f"{prefix}.first_order"] = self.first_order.numpy()
        return found


def overlay_rows(
    field: Field, ids: Sequence[str | int], rows: Tensor, first_order: Tensor | None = None
) -> OverlayRows:
    """Sort a domain's embeddings by raw id.

    Args:
        field: the id field.
        ids: raw ids, each once, known to the backbone or not.
        rows: (n, E), the embedding of each id.
        first_order: (n,), where the backbone's kind has first-order weights.

    Raises:
        ValueError: an id occurs twice.
        features.errors.InvalidValue: an id is longer than 255 bytes or holds a NUL.
    """
    index = RawIndex.from_values(list(ids))
    if len(index) != len(ids):
        raise ValueError(f"{len(ids) - len(index)} ids of field {field.name!r} occur twice")
    order = torch.empty(len(ids), dtype=torch.int64)
    order[torch.from_numpy(index.find(list(ids)))] = torch.arange(len(ids))
    weights = None if first_order is None else first_order[order]
    return OverlayRows(cast(OverlaidSide, field.of), field.name, index, rows[order], weights)


def row_sparse(
    fields: Iterable[Field], vocabulary: Vocabulary, theta_s: Mapping[str, Tensor], theta_i: Mapping[str, Tensor]
) -> tuple[list[OverlayRows], dict[str, Tensor]]:
    """Move the rows that a delta changes in the tables of id fields into an overlay.

    Row 0 belongs to no id: its delta is left out, and ids that neither the vocabulary nor the overlay has are scored on
    the backbone's own row.

    Args:
        fields: of the backbone.
        vocabulary: of the backbone, to name the rows' ids.
        theta_s: the backbone's weights, by a bundle's names.
        theta_i: the domain's delta; a tensor that is not there is zero.

    Returns:
        The overlays, none for a side without changed rows; and the delta of everything else.
    """
    rest = dict(theta_i)
    overlays = []
    for field in fields:
        names = [name for name in (f"embedding.{field.name}", f"first_order.{field.name}") if name in theta_s]
        if not field.id or not any(name in rest for name in names):
            continue
        deltas = {name: rest.pop(name, torch.zeros_like(theta_s[name])) for name in names}
        changed = torch.stack([(delta != 0).flatten(1).any(1) for delta in map(_matrix, deltas.values())]).any(0)
        changed[0] = False
        rows = changed.nonzero()[:, 0]
        if len(rows):
            whole = [(theta_s[name] + delta)[rows] for name, delta in deltas.items()]
            index = vocabulary[field.name]
            ids = [index.raw(int(row) - 1) for row in rows]
            overlays.append(overlay_rows(field, ids, whole[0], whole[1] if len(whole) > 1 else None))
    return overlays, rest


def _matrix(delta: Tensor) -> Tensor:
    return delta if delta.ndim == 2 else delta[:, None]
