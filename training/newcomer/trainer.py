"""LoRA and id overlay of one new domain, trained together on a frozen backbone (methods.md 2, "New domains")."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from network.backbone import Backbone
from network.lora import DomainAdapter
from training.adapters import AdapterTrainer, Place
from training.batches import RowTensors, logits_of
from training.checkpoint import Memory, StateFolder
from training.config import Schedule, Select
from training.dataset import Split
from training.deltas.overlay import OverlayRows
from training.loops import Fitted, Loop, Trainee
from training.newcomer.config import NewcomerConfig
from training.newcomer.overlay import Chosen
from training.progress import Meter
from training.seeds import Stream

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrainedNewcomer:
    """What training gives.

    Args:
        backbone: frozen.
        rows: the domain's.
        adapter: the LoRA and its norms, frozen and in eval mode.
        overlays: the id overlays, at most one a side.
        fitted: how it went; epoch 0 is the start, which is the backbone.
        blind: whether the `stop` half had too few rows of a label to stop the training by.
    """

    backbone: Backbone
    rows: RowTensors
    adapter: DomainAdapter
    overlays: Sequence[Chosen]
    fitted: Fitted
    blind: bool

    def logits(self, positions: NDArray[np.int64]) -> Floats:
        """Logits (n,) of rows as the domain is served, before calibration."""
        return logits_of(torch.from_numpy(positions), lambda part: score(self, part))

    def backbone_logits(self, positions: NDArray[np.int64]) -> Floats:
        """Logits (n,) of rows by the backbone alone."""
        return logits_of(torch.from_numpy(positions), lambda part: self.backbone(self.rows.batch(part)))

    def exported(self) -> list[OverlayRows]:
        """The overlays by raw id, for an artifact."""
        return [chosen.overlay.exported() for chosen in self.overlays]


class _OwnParts(nn.Module):
    """Everything that is trained."""

    def __init__(self, adapter: DomainAdapter, overlays: Sequence[Chosen]) -> None:
        super().__init__()
        self.adapter = adapter
        self.overlays = nn.ModuleList(chosen.overlay for chosen in overlays)


@dataclass(frozen=True)
class _Training:
    """One training on its way; what `score` reads of it is what a trained one has."""

    backbone: Backbone
    rows: RowTensors
    adapter: DomainAdapter
    overlays: Sequence[Chosen]


def score(newcomer: TrainedNewcomer | _Training, positions: Tensor) -> Tensor:
    """Return the logits (n,) of rows: the backbone's lookup, the overlays over it, the LoRA in its layers."""
    with torch.no_grad():
        looked = newcomer.backbone.embeddings.look_up(newcomer.rows.batch(positions))
    for chosen in newcomer.overlays:
        looked = chosen.overlay.laid_over(looked, chosen.positions[positions])
    return newcomer.backbone.score_looked_up(looked, newcomer.adapter)


def train_newcomer(
    backbone: Backbone,
    rows: RowTensors,
    split: Split,
    overlays: Sequence[Chosen],
    config: NewcomerConfig,
    meter: Meter,
) -> TrainedNewcomer:
    """Train a new domain's LoRA and overlay; the backbone never changes.

    The loss is the mean cross entropy of a batch, and l2 / (2 N) of the overlay's squared distance from the backbone's
    rows, N being the training rows: with l2 = 1 the posterior mode under a normal prior of the backbone's own spread.

    Args:
        backbone: frozen.
        rows: the domain's, of one division with this domain alone.
        split: which rows serve what.
        overlays: untrained.
        config: how.
        meter: where progress goes.

    Raises:
        ConfigError: the adapter's ranks or targets do not fit the backbone.
    """
    division, name = rows.divisions[0].name, rows.divisions[0].domains[0]
    train, stop = torch.from_numpy(split.train), torch.from_numpy(split.stop)
    blind = _fewest(rows.label[stop]) < config.min_of_class
    schedule, select = _course(config, blind)
    stream = Stream(config.seed, ("newcomer", division, name))
    plain = AdapterTrainer(backbone, rows, train, stop, config.lora(backbone.shape), schedule, select, stream, meter)
    adapter = plain.untrained(Place(0, 0, division, name))
    training = _Training(backbone, rows, adapter, overlays)
    own = _OwnParts(adapter, overlays)

    def loss(batch: Tensor) -> Tensor:
        entropy = functional.binary_cross_entropy_with_logits(score(training, batch), rows.label[batch])
        distance = sum((chosen.overlay.distance() for chosen in overlays), torch.zeros(()))
        return entropy + config.overlay.l2 / (2 * len(train)) * distance

    def prepare() -> None:
        plain.compensate(adapter, train)  # the overlay has not moved yet: the moments are those of its start

    trainee = Trainee(
        layer=own,
        trained=own,
        prepare=prepare,
        loss=loss,
        auc=lambda: rows.auc(stop, logits_of(stop, lambda part: score(training, part))),
        start_counts=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory(StateFolder(Path(folder)), name, {})
        fitted = Loop(trainee, train, schedule, select, stream, memory, meter).run()
    own.requires_grad_(False).eval()
    return TrainedNewcomer(backbone, rows, adapter, overlays, fitted, blind)


def _fewest(label: Tensor) -> int:
    positives = int(label.sum())
    return min(positives, len(label) - positives)


def _course(config: NewcomerConfig, blind: bool) -> tuple[Schedule, Select]:
    """How long: until validation no longer gains, or a number of passes where it could not tell."""
    if not blind:
        return config.schedule, "best"
    return config.schedule.model_copy(update={"epochs": config.blind_epochs}), "last_epoch"
