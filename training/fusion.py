"""Stage 3: how the divisions' frozen LoRAs combine, on all rows mixed (methods.md 2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from network.backbone import Backbone
from network.fused import FusedTower
from network.fusion import Fusion, Mode
from network.grouping import Domains
from network.lora import DomainAdapter
from network.norm import Moments, compensating
from training.batches import EVAL_ROWS, RowTensors, logits_of
from training.checkpoint import Memory
from training.config import FusionConfig, Schedule, Select
from training.loops import Fitted, Loop, Trainee
from training.progress import Meter
from training.seeds import Stream

TRAINED_MODES: tuple[Mode, ...] = ("attention", "avg", "add")


@dataclass(frozen=True)
class TrainedFusion:
    """What stage 3 gives for one mode.

    Args:
        mode: how the divisions combine.
        tower: the adapters, the fusion and the tuples' norms; frozen, in eval mode.
        fitted: how its training went.
        pair_rows: training rows of each tuple that has norms of its own.
    """

    mode: Mode
    tower: FusedTower
    fitted: Fitted
    pair_rows: Mapping[Domains, int]


@dataclass(frozen=True)
class FusionTrainer:
    """Trains the fusion of one backbone's adapters.

    Args:
        backbone: frozen.
        rows: the data set.
        train: (n,) positions of the training rows.
        stop: (n,) positions of the validation rows that serve early stopping.
        adapters: by division, natural first, then by domain position.
        config: how they combine.
        ranks: fusion rank of each adaptable module, 0 where none is adapted.
        moments: how the tuples' norms treat moments.
        schedule: how long and how fast.
        select: the best epoch or the last.
        stream: of this stage's random numbers.
        meter: where progress goes.
    """

    backbone: Backbone
    rows: RowTensors
    train: Tensor
    stop: Tensor
    adapters: Sequence[Mapping[int, DomainAdapter]]
    config: FusionConfig
    ranks: Sequence[int]
    moments: Moments
    schedule: Schedule
    select: Select
    stream: Stream
    meter: Meter

    def one(self, mode: Mode, memory: Memory) -> TrainedFusion:
        """Train one mode: query and key (attention only) and the norms of the frequent tuples.

        Raises:
            StateMismatch: the checkpoint is of other settings.
        """
        tower = self.untrained(mode)
        trainee = Trainee(
            layer=tower,
            trained=nn.ModuleList([tower.norms] if tower.fusion is None else [tower.norms, tower.fusion]),
            prepare=lambda: self._compensate(tower),
            loss=lambda batch: self._loss(tower, batch),
            auc=lambda: self.rows.auc(self.stop, self.logits(tower, self.stop)),
            # the average as it starts is a candidate of its own, next to the epochs (methods.md 2)
            start_counts=mode != "attention",
        )
        stream = self.stream.of(mode)
        fitted = Loop(trainee, self.train, self.schedule, self.select, stream, memory, self.meter).run()
        return TrainedFusion(mode, tower.requires_grad_(False).eval(), fitted, self._pair_rows(tower))

    def untrained(self, mode: Mode) -> FusedTower:
        """Return a mode as it starts; `single` needs no training."""
        fusion = None
        if mode == "attention":
            generator = self.stream.of("start").generator()
            fusion = Fusion(self.backbone.shape, self.ranks, self.config.divisor, self.config.zero_key, generator)
        tower = FusedTower(self.backbone, self.adapters, mode, fusion, self.schedule.dropout)
        tower.add_frequent_norms(self.rows.domains[self.train], self.config.min_tuple_rows, self.moments)
        return tower

    def logits(self, tower: FusedTower, rows: Tensor) -> NDArray[np.float64]:
        """Score the rows at some positions; the tower must be in eval mode."""
        return logits_of(rows, lambda part: tower.logits(self.backbone, self.rows.batch(part), self.rows.domains[part]))

    @torch.no_grad()
    def _compensate(self, tower: FusedTower) -> None:
        """Move each tuple's norms to the moments of its own rows, the function unchanged (methods.md 2)."""
        if self.moments != "compensated":
            return
        tower.eval()
        with compensating(norm for _, norms in tower.own_norms() for norm in norms):
            for part in torch.split(self.train, EVAL_ROWS):
                tower.logits(self.backbone, self.rows.batch(part), self.rows.domains[part])

    def _loss(self, tower: FusedTower, rows: Tensor) -> Tensor:
        layer = tower.bound(self.rows.domains[rows])
        ordered = rows[layer.grouping.order]
        logits = self.backbone(self.rows.batch(ordered), layer)
        return functional.binary_cross_entropy_with_logits(logits, self.rows.label[ordered])

    def _pair_rows(self, tower: FusedTower) -> dict[Domains, int]:
        """Training rows that each tuple's norms serve."""
        unique, counts = torch.unique(self.rows.domains[self.train], dim=0, return_counts=True)
        served: Counter[Domains] = Counter()
        for domains, n in zip(unique.tolist(), counts.tolist(), strict=True):
            served[tower.norm_name(tuple(domains))] += n
        return {domains: served[domains] for domains, _ in tower.own_norms()}
