"""The adapter that scores a domain now: to train on from, and to be held against what would take its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from adapters_store.artifact import Adapter
from adapters_store.manifest import Calibration
from network.backbone import Backbone
from network.lora import DomainAdapter
from network.norm import Moments
from training.metrics import Floats


@dataclass(frozen=True)
class Live:
    """A live adapter and what it says of the rows.

    Args:
        adapter: as it is published.
        raw: (n,) its logits of all rows, before its calibration.
    """

    adapter: Adapter
    raw: Floats

    def logits(self, positions: NDArray[Any], shift: float = 0.0) -> Floats:
        """Logits (n,) of rows as they are served now.

        Args:
            positions: of the rows.
            shift: taken off its calibration: the prior's, for rows that lack it.
        """
        return on_the_line(self.adapter.manifest.calibration, self.raw[positions], shift)


def on_the_line(calibration: Calibration, raw: Floats, shift: float) -> Floats:
    """Logits (n,) as they are served; the prior's shift taken off, for rows that lack it."""
    served: Floats = calibration.slope * raw + (calibration.intercept - shift)
    return served


def loaded_adapter(
    backbone: Backbone, live: Adapter, dropout: float = 0.0, moments: Moments = "compensated"
) -> DomainAdapter:
    """Return a published LoRA as a network; its ranks stay.

    Args:
        backbone: that it was trained on.
        live: its own LoRAs and norms are taken, of kind `lora` or `fused`.
        dropout: of further training.
        moments: how further training treats them.

    Raises:
        ShapeError: its tensors do not fit the backbone.
    """
    ranks = [live.manifest.ranks.get(module.name, 0) for module in backbone.shape.modules]
    start = torch.Generator()  # every draw of it is written over
    adapter = DomainAdapter.untrained(backbone, ranks, start, dropout=dropout, moments=moments)
    adapter.load_tensors({name: torch.tensor(value) for name, value in live.tensors.items()})
    return adapter
