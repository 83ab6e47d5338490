"""The AUC of a whole network on fixed rows, as the gate of compression asks for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from network.backbone import Backbone
from network.inputs import NetworkShape
from training.batches import RowTensors, logits_of


class ValidationAuc:
    """Scores rows of one domain by any weights of one shape.

    Args:
        shape: of the backbone.
        rows: of the data set.
        positions: (n,) int64, the domain's validation rows (the `stop` half: ranks are a search).
    """

    def __init__(self, shape: NetworkShape, rows: RowTensors, positions: Tensor) -> None:
        self._network = Backbone(shape).freeze()
        self._rows = rows
        self._positions = positions

    @property
    def rows(self) -> int:
        """How many rows are scored."""
        return len(self._positions)

    @torch.no_grad()
    def __call__(self, weights: Mapping[str, Tensor]) -> float | None:
        """Return the AUC by these weights, named as in a bundle; None where the rows have one class only."""
        self._network.load_weights(weights)
        logits = logits_of(self._positions, lambda part: self._network(self._rows.batch(part)))
        return self._rows.auc(self._positions, logits)
