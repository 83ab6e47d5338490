"""How a new domain is trained: every key has a default, for towers of any depth."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from network.inputs import NetworkShape
from training.config import (
    AdapterConfig,
    CalibrationConfig,
    GateConfig,
    NonNegative,
    Positive,
    Rate,
    Schedule,
    Section,
    Share,
)

RANK = 8


class OverlayConfig(Section):
    """Which ids get an embedding of the domain's own, and how freely it moves.

    Args:
        ids: `unseen` by the backbone's training, `rare` in it (the unseen among them), `all` that the training rows
            name, or `none`.
        rare_below: how many rows of the backbone's training name an id that is not rare.
        l2: towards the backbone's own row (row 0 for an id that it lacks). 1 is the prior that a row lies as far from
            there as the backbone's rows lie from their mean.
        pace: how many times the step size of the LoRA a row's coordinate moves in a step, in units of that spread.
    """

    ids: Literal["unseen", "rare", "all", "none"] = "unseen"
    rare_below: Positive = 20
    l2: NonNegative = 1.0
    pace: Rate = 3.0


class NewcomerConfig(Section):
    """Everything that decides what a new domain's adapter is.

    Args:
        seed: of all training, and of how validation rows that the file names are halved.
        threads: cores that torch uses.
        adapter: the LoRA; null is rank 8 on every hidden layer.
        overlay: the id overlay.
        schedule: how long and how fast both are trained.
        validation: share of the rows that is not trained on: about one half stops the training and fits the
            calibration, the other is the gate's. Not looked at where the rows bring a column `split`.
        min_of_class: positives, and negatives, of the `stop` half that early stopping needs.
        blind_epochs: passes over the rows where it has fewer.
        calibration: of the adapter.
        gate: whether it is published.
        artifact_dtype: of down, up and the overlay's rows in the artifact.
    """

    seed: Annotated[int, Field(ge=0)] = 0
    threads: Positive = 2
    adapter: AdapterConfig | None = None
    overlay: OverlayConfig = OverlayConfig()
    schedule: Schedule = Schedule(
        lr=3e-3, weight_decay=1e-4, batch_rows=512, min_batches=20, epochs=40, patience=5, dropout=0.2
    )
    validation: Annotated[Share, Field(gt=0)] = 0.2
    min_of_class: Positive = 5
    blind_epochs: Positive = 10
    calibration: CalibrationConfig = CalibrationConfig()
    gate: GateConfig = GateConfig(policy="record")
    artifact_dtype: Literal["float16", "float32"] = "float16"

    def lora(self, shape: NetworkShape) -> AdapterConfig:
        """What the adapter is, for a backbone of this shape."""
        return self.adapter or AdapterConfig(ranks=(RANK,) * len(shape.tower))
