"""How a new domain is trained: every key has a default, for towers of any depth."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from features.overlay import FEWEST_BITS, MOST_BITS
from network.inputs import NetworkShape
from training.batches import batch_count
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
        bits: of a coordinate in the artifact; null, or `artifact_dtype: float32`, gives it a number of that type. Six
            moved the AUC of MovieLens-1M's women by less than 0.00001, and four by 0.0005.
    """

    ids: Literal["unseen", "rare", "all", "none"] = "unseen"
    rare_below: Positive = 20
    l2: NonNegative = 1.0
    pace: Rate = 3.0
    bits: Annotated[int, Field(ge=FEWEST_BITS, le=MOST_BITS)] | None = 6


class NewcomerSchedule(Section):
    """How long and how fast a new domain is trained: few passes, over which the step size falls linearly to zero.

    A constant step needs as many passes again before validation tells that it has been the last good one; falling to
    zero it ends where it should, and early. With all of MovieLens-1M's women two passes gave what twelve had given.

    Args:
        lr: Adam's first step size of a full batch; that of a smaller one is by the root of its share of the rows
            (Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms").
        weight_decay: coupled L2 of the LoRA.
        batch_rows: rows of a batch, at most.
        min_batches: a domain with few rows gets smaller batches, until it has this many a pass.
        steps: so many batches are enough: passes are taken until there are as many, two at least.
        epochs: passes at most.
        dropout: probability after each hidden layer.
    """

    lr: Rate = 1e-2
    weight_decay: NonNegative = 0.0
    batch_rows: Positive = 1024
    min_batches: Positive = 20
    steps: Positive = 320
    epochs: Positive = 5
    dropout: Share = 0.0

    def of_rows(self, rows: int) -> Schedule:
        """What it is for a number of training rows; every pass of it is taken."""
        batches = batch_count(rows, self.batch_rows, self.min_batches)
        epochs = min(self.epochs, max(2, math.ceil(self.steps / batches)))
        share = min(1.0, rows / (batches * self.batch_rows))
        return Schedule(
            lr=self.lr * math.sqrt(share) or self.lr,
            weight_decay=self.weight_decay,
            batch_rows=self.batch_rows,
            min_batches=self.min_batches,
            epochs=epochs,
            patience=epochs,
            dropout=self.dropout,
        )


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
        min_of_class: positives, and negatives, of the `stop` half that choosing the best pass needs.
        blind_epochs: passes over the rows, at most, where it has fewer.
        calibration: of the adapter.
        gate: whether it is published.
        artifact_dtype: of down and up in the artifact; of the overlay's rows where they have no `bits`.
    """

    seed: Annotated[int, Field(ge=0)] = 0
    threads: Positive = 2
    adapter: AdapterConfig | None = None
    overlay: OverlayConfig = OverlayConfig()
    schedule: NewcomerSchedule = NewcomerSchedule()
    validation: Annotated[Share, Field(gt=0)] = 0.2
    min_of_class: Positive = 5
    blind_epochs: Positive = 5
    calibration: CalibrationConfig = CalibrationConfig()
    gate: GateConfig = GateConfig(policy="record")
    artifact_dtype: Literal["float16", "float32"] = "float16"

    @property
    def coded_bits(self) -> int | None:
        """Bits of an overlay's coordinate in the artifact; None where it is a number of `artifact_dtype`."""
        return self.overlay.bits if self.artifact_dtype == "float16" else None

    def lora(self, shape: NetworkShape) -> AdapterConfig:
        """What the adapter is, for a backbone of this shape."""
        return self.adapter or AdapterConfig(ranks=(RANK,) * len(shape.tower))
