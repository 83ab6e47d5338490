"""Golden rows of artifacts that carry deltas or overlays: logits from the literal network, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from features.rows import EncodedRows
from network.backbone import Backbone
from network.embeddings import LookedUp
from network.inputs import Batch
from network.tower import TowerLayer
from training.artifacts_of import Source
from training.deltas.overlay import OverlayRows
from training.golden import ADAPTER_ROWS, as_float64, spread


@dataclass(frozen=True)
class OverlaidRows:
    """Golden rows of one domain.

    Args:
        rows: as the service encodes them.
        batch: the same as tensors.
        positions: side to (n,) int64, position in its overlay, -1 none.
        overlays: as stored.
    """

    rows: EncodedRows
    batch: Batch
    positions: dict[str, NDArray[np.int64]]
    overlays: Sequence[OverlayRows]

    def tensors(self, logits: Tensor) -> dict[str, NDArray[Any]]:
        """The tensors `golden.*` of an artifact."""
        named = {f"golden.overlay.{side}": found.astype(np.int32) for side, found in self.positions.items()}
        return self.rows.to_tensors("golden.inputs") | named | {"golden.logits": as_float64(logits)}

    @torch.no_grad()
    def logits(self, exact: Backbone, layer: TowerLayer | None = None) -> Tensor:
        """The logits (n,) float64 of a network with the overlays' rows in place of the id fields' vectors.

        Args:
            exact: in float64.
            layer: an adapter in float64; None is the network's own.
        """
        return exact.score_looked_up(self.looked_up(exact), layer)

    @torch.no_grad()
    def looked_up(self, exact: Backbone) -> LookedUp:
        """What the rows have become, the overlays' rows in place of the id fields' vectors."""
        looked = exact.embeddings.look_up(self.batch)
        vectors, first_order = list(looked.vectors), looked.first_order
        for overlay in self.overlays:
            at = next(i for i, field in enumerate(exact.shape.fields) if field.name == overlay.field)
            found = torch.from_numpy(self.positions[overlay.side])
            known = found >= 0
            vectors[at] = vectors[at].clone()
            vectors[at][known] = overlay.rows.double()[found[known]]
            if first_order is not None and overlay.first_order is not None:
                own = exact.weights()[f"first_order.{overlay.field}"]
                stood = torch.from_numpy(self.rows.arrays[overlay.field].astype(np.int64))
                first_order = first_order.clone()
                first_order[known, 0] += overlay.first_order.double()[found[known]] - own[stood[known]]
        return LookedUp(torch.cat(vectors, dim=1), vectors, first_order)


def overlaid_golden(
    source: Source,
    domain: int,
    overlays: Sequence[OverlayRows],
    positions: NDArray[np.int64] | None = None,
    given: NDArray[np.int64] | None = None,
) -> OverlaidRows:
    """Choose golden rows of a natural domain; every other one is given an id of each overlay.

    Which ids they are is assigned, as auxiliary domains are: rows of the overlay are to be held that no row of the data
    names, such as those of ids that the backbone never saw.

    Args:
        source: of the artifact.
        domain: position in the natural division.
        overlays: as stored.
        positions: rows of the data that are taken; None spreads them over the domain's.
        given: which of the golden rows are given ids; None is every other one.
    """
    if positions is None:
        positions = spread(source.inside(0, domain), ADAPTER_ROWS)
    given = np.arange(0, len(positions), 2) if given is None else given
    rows, batch = source.inputs(positions), source.rows.batch(torch.from_numpy(positions))
    sparse, found = batch.sparse.clone(), dict[str, NDArray[np.int64]]()
    arrays = {name: array.copy() for name, array in rows.arrays.items()}
    columns = [field.name for field in source.dataset.fields if field.kind == "sparse"]
    for overlay in overlays:
        known = source.dataset.vocabulary.rows(overlay.field, overlay.ids.values())
        place = np.full(source.dataset.vocabulary.size(overlay.field), -1)
        place[known] = np.arange(len(known))
        place[0] = -1  # out of vocabulary names no id
        column = arrays[overlay.field]
        at = place[column]
        at[given] = spread(np.arange(len(known)), len(given))
        column[given] = known[at[given]]
        sparse[:, columns.index(overlay.field)] = torch.from_numpy(column)
        found[overlay.side] = at.astype(np.int64)
    return OverlaidRows(EncodedRows(rows.n, arrays), replace(batch, sparse=sparse), found, overlays)
