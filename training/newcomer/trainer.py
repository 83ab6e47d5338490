"""LoRA and id overlay of one new domain, trained together on a frozen backbone (methods.md 2, "New domains")."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from adapters_store.artifact import Adapter
from adapters_store.manifest import Calibration
from network.backbone import Backbone
from network.fused import FusedTower
from network.lora import DomainAdapter
from network.norm import Moments, compensating
from training.adapters import AdapterTrainer, Place
from training.batches import EVAL_ROWS, RowTensors, logits_of
from training.checkpoint import Memory, StateFolder
from training.config import Schedule, Select
from training.dataset import Split
from training.loops import Fitted, Loop, Trainee
from training.metrics import Floats
from training.newcomer.config import NewcomerConfig
from training.newcomer.errors import NothingToTrain
from training.newcomer.fused import Pins, loaded_tower
from training.newcomer.live import loaded_adapter
from training.newcomer.network import NewcomerNetwork, OwnParts
from training.newcomer.overlay import Chosen
from training.progress import Meter
from training.seeds import Stream

_MOMENT_ROWS = 32_768


@dataclass(frozen=True)
class TrainedNewcomer:
    """What training gives.

    Args:
        network: frozen and in eval mode.
        fitted: how it went; epoch 0 is the start.
        started: what training started from: the backbone, or the adapter that was live.
        blind: whether the `stop` half had too few rows of a label to stop the training by.
        line: the calibration that it was trained under, of an adapter that stays as it is; None where it learns its
            own scale.
    """

    network: NewcomerNetwork
    fitted: Fitted
    started: NewcomerNetwork
    blind: bool
    line: Calibration | None = None

    def logits(self, positions: NDArray[np.int64]) -> Floats:
        """Logits (n,) of rows as the domain is served, before calibration."""
        return logits_of(torch.from_numpy(positions), self.network.score)

    def start_logits(self, positions: NDArray[np.int64]) -> Floats:
        """Logits (n,) of rows by what training started from."""
        return logits_of(torch.from_numpy(positions), self.started.score)

    def backbone_logits(self, positions: NDArray[np.int64]) -> Floats:
        """Logits (n,) of rows by the backbone alone."""
        backbone, rows = self.network.backbone, self.network.rows
        return logits_of(torch.from_numpy(positions), lambda part: backbone(rows.batch(part)))


def train_newcomer(
    backbone: Backbone,
    rows: RowTensors,
    split: Split,
    overlays: Sequence[Chosen],
    config: NewcomerConfig,
    meter: Meter,
    begun: Adapter | None = None,
    pins: Pins | None = None,
) -> TrainedNewcomer:
    """Train a new domain's LoRA and overlay; the backbone never changes.

    The loss is the mean cross entropy of a batch, and l2 / (2 N) of the overlay's squared distance from the rows that
    it started from, N being the training rows: with l2 = 1 the posterior mode under a normal prior of the backbone's
    own spread. Nothing else holds the overlay: the weight decay is the LoRA's. The start is the backbone's rows, or
    those of the adapter that training goes on from.

    Args:
        backbone: frozen.
        rows: the domain's, of one division with this domain alone.
        split: which rows serve what.
        overlays: untrained.
        config: how.
        meter: where progress goes.
        begun: the adapter that training goes on from; its overlay is in `overlays`. One of kind `fused` stays as it is,
            for what it pins is trained with others: its overlay alone is trained, under its calibration.
        pins: what `begun` pins.

    Raises:
        ConfigError: the adapter's ranks or targets do not fit the backbone.
        NothingToTrain: `begun` is fused, and there are no overlays.
    """
    place = Place(0, 0, rows.divisions[0].name, rows.divisions[0].domains[0])
    train, stop = torch.from_numpy(split.train), torch.from_numpy(split.stop)
    blind = _fewest(rows.label[stop]) < config.min_of_class
    schedule, select = _course(config, len(train), blind)
    stream = Stream(config.seed, ("newcomer", place.division_name, place.name))
    plain = AdapterTrainer(backbone, rows, train, stop, config.lora(backbone.shape), schedule, select, stream, meter)
    adapter: DomainAdapter | FusedTower
    if begun is None:
        adapter = plain.untrained(place)
    elif begun.manifest.kind == "fused":
        if not overlays:
            raise NothingToTrain(
                "a fused adapter stays as it is and its overlay alone is trained, and no id is to have one: choose "
                "other overlay.ids, or --replace it by a LoRA"
            )
        adapter = loaded_tower(backbone, begun, pins or Pins(), rows.divisions)
    else:
        adapter = loaded_adapter(backbone, begun, schedule.dropout, plain.config.moments)
    network = NewcomerNetwork(backbone, rows, adapter, overlays)
    own = OwnParts(network).eval()
    started = network.copied()

    line = begun.manifest.calibration if begun is not None and isinstance(adapter, FusedTower) else None
    scale, offset = (1.0, 0.0) if line is None else (line.slope, line.intercept - config.calibration.shift)

    def loss(batch: Tensor) -> Tensor:
        served = scale * network.score(batch) + offset
        entropy = functional.binary_cross_entropy_with_logits(served, rows.label[batch])
        return entropy + config.overlay.l2 / (2 * len(train)) * network.distance()

    trainee = Trainee(
        layer=own,
        trained=own,
        prepare=lambda: _compensate(network, train, plain.config.moments),
        loss=loss,
        auc=lambda: rows.auc(stop, logits_of(stop, network.score)),
        start_counts=True,
        undecayed=[chosen.overlay.moved for chosen in overlays],
    )
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory(StateFolder(Path(folder)), place.name, {})
        fitted = Loop(trainee, train, schedule, select, stream, memory, meter, falling=True).run()
    own.requires_grad_(False).eval()
    if config.coded_bits is not None and fitted.epoch > 0:
        for chosen in overlays:  # what is calibrated and judged is what will be served
            chosen.overlay.round_to(config.coded_bits)
    return TrainedNewcomer(network, fitted, started, blind, line)


@torch.no_grad()
def _compensate(network: NewcomerNetwork, train: Tensor, moments: Moments) -> None:
    """Move the norms to the domain's own moments before the first step, the function unchanged (methods.md 2).

    Of many rows some tell the moments well enough: a few batches later the running ones are those of the batches.
    """
    if moments != "compensated" or isinstance(network.adapter, FusedTower):
        return
    count = min(len(train), _MOMENT_ROWS)
    some = train[torch.arange(count) * len(train) // max(count, 1)]
    with compensating(network.adapter.dom_norms()):
        for part in torch.split(some, EVAL_ROWS):
            network.score(part)


def _fewest(label: Tensor) -> int:
    positives = int(label.sum())
    return min(positives, len(label) - positives)


def _course(config: NewcomerConfig, rows: int, blind: bool) -> tuple[Schedule, Select]:
    """How long: all passes, the best of them taken; the last where validation cannot tell."""
    if not blind:
        return config.schedule.of_rows(rows), "best"
    return config.schedule.model_copy(update={"epochs": config.blind_epochs}).of_rows(rows), "last_epoch"
