"""Stage 2: one adapter for each domain of each division, on that domain's rows alone (methods.md 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from network.backbone import Backbone
from network.lora import DomainAdapter, LoraStart, domain_generator
from network.norm import compensating
from training.batches import EVAL_ROWS, RowTensors, logits_of
from training.checkpoint import Memory
from training.config import AdapterConfig, Schedule, Select
from training.loops import Fitted, Loop, Trainee
from training.progress import Meter
from training.ranks import adapter_ranks
from training.seeds import Stream


@dataclass(frozen=True)
class Place:
    """Where a domain stands.

    Args:
        division: position of its division in `RowTensors.divisions`.
        domain: position in that division's domains.
        division_name: the division's name.
        name: the domain's id.
    """

    division: int
    domain: int
    division_name: str
    name: str


@dataclass(frozen=True)
class TrainedAdapter:
    """What stage 2 gives for one domain.

    Args:
        place: the domain.
        adapter: frozen, in eval mode.
        fitted: how its training went; epoch 0 is the untrained adapter, which is the backbone.
        rows: training rows of the domain.
    """

    place: Place
    adapter: DomainAdapter
    fitted: Fitted
    rows: int


@dataclass(frozen=True)
class AdapterTrainer:
    """Trains adapters of one backbone.

    Args:
        backbone: frozen.
        rows: the data set.
        train: (n,) positions of the training rows.
        stop: (n,) positions of the validation rows that serve early stopping.
        config: what an adapter is.
        schedule: how long and how fast.
        select: the best epoch, the untrained adapter included, or the last.
        stream: of this stage's random numbers.
        meter: where progress goes.
    """

    backbone: Backbone
    rows: RowTensors
    train: Tensor
    stop: Tensor
    config: AdapterConfig
    schedule: Schedule
    select: Select
    stream: Stream
    meter: Meter

    def every(self, memory_of: Callable[[Place], Memory]) -> list[TrainedAdapter]:
        """Train the adapters of all domains, each from its own checkpoint.

        Raises:
            StateMismatch: a checkpoint is of other settings.
        """
        return [self.one(place, memory_of(place)) for place in places(self.rows)]

    def one(self, place: Place, memory: Memory) -> TrainedAdapter:
        """Train one domain's adapter."""
        train = self.rows.of_domain(self.train, place.division, place.domain)
        stop = self.rows.of_domain(self.stop, place.division, place.domain)
        adapter = self.untrained(place)
        trainee = Trainee(
            layer=adapter,
            trained=adapter,
            prepare=lambda: self.compensate(adapter, train),
            loss=lambda batch: self._loss(adapter, batch),
            auc=lambda: self.rows.auc(stop, logits_of(stop, lambda part: self._score(adapter, part))),
            start_counts=True,
        )
        stream = self.stream.of(place.division_name, place.name)
        fitted = Loop(trainee, train, self.schedule, self.select, stream, memory, self.meter).run()
        return TrainedAdapter(place, adapter.requires_grad_(False).eval(), fitted, len(train))

    def untrained(self, place: Place) -> DomainAdapter:
        """Return a domain's adapter before its first step: the backbone, bit for bit."""
        config = self.config
        return DomainAdapter.untrained(
            self.backbone,
            adapter_ranks(self.backbone.shape, config),
            domain_generator(self.stream.seed, place.division_name, place.name),
            start=LoraStart(config.down_std, config.scale_mean, config.scale_std),
            dropout=self.schedule.dropout,
            moments=config.moments,
        )

    @torch.no_grad()
    def compensate(self, adapter: DomainAdapter, train: Tensor) -> None:
        """Move the norms to the domain's own moments before the first step, the function unchanged (methods.md 2)."""
        if self.config.moments != "compensated":
            return
        adapter.eval()
        with compensating(adapter.dom_norms()):
            for part in torch.split(train, EVAL_ROWS):
                self._score(adapter, part)

    def _score(self, adapter: DomainAdapter, rows: Tensor) -> Tensor:
        logits: Tensor = self.backbone(self.rows.batch(rows), adapter)
        return logits

    def _loss(self, adapter: DomainAdapter, rows: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(self._score(adapter, rows), self.rows.label[rows])


def places(rows: RowTensors) -> Iterator[Place]:
    """Every domain of every division, the natural division first."""
    for i, division in enumerate(rows.divisions):
        for j, name in enumerate(division.domains):
            yield Place(i, j, division.name, name)
