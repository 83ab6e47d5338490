"""Per-domain baselines: a whole network for each domain, on that domain's rows alone.

`Single` starts every domain from one network of random weights, `Fine-tune` from the pre-trained backbone; embeddings
are trained too. Values that a domain's training rows lack keep their start, but for weight decay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from network.backbone import Backbone
from training.adapters import Place, places
from training.batches import RowTensors, logits_of
from training.checkpoint import Memory
from training.early_stopping import EarlyStopping
from training.loops import Fitted, Loop, Trainee
from training.packed.config import PackedConfig
from training.packed.course import Course, Terms
from training.packed.local import Block, LocalInputs, blocks, own_rows
from training.packed.loop import PackLoop, scored
from training.packed.packer import Packer, fitted_of, record_of
from training.packed.plan import Footprint, Pack, Plan, Size, plan
from training.packed.rows import DomainRows, split_domains
from training.packed.stack import Stack
from training.packed.whole_network import WholeNetwork, whole_layout, whole_tensors
from training.progress import Meter, SilentMeter
from training.seeds import Stream


@dataclass(frozen=True)
class TrainedWhole:
    """What a baseline gives for one domain.

    Args:
        place: the domain.
        fitted: how its training went.
        rows: (n,) positions of the rows that were scored.
        logits: (n,) theirs.
    """

    place: Place
    fitted: Fitted
    rows: Tensor
    logits: NDArray[np.float64]


@dataclass(frozen=True)
class WholeTrainer(Packer[TrainedWhole]):
    """Trains a network for each domain.

    Args:
        start: what every domain starts from; never changed.
        rows: the data set.
        train: (n,) positions of the training rows.
        stop: (n,) positions of the validation rows that serve early stopping.
        score: (n,) positions of the rows to score in the end.
        terms: how long, how fast, and which epoch is kept; dropout is the schedule's.
        stream: of this baseline's random numbers.
        meter: where progress goes.
        config: how large a pack may be.
    """

    start: Backbone
    rows: RowTensors
    train: Tensor
    stop: Tensor
    score: Tensor
    terms: Terms
    stream: Stream
    meter: Meter
    config: PackedConfig

    @property
    def title(self) -> str:
        """The baseline, by its name."""
        return "/".join(map(str, self.stream.name))

    def say(self, text: str) -> None:
        """Show progress."""
        self.meter.say(text)

    def bare(self) -> WholeTrainer:
        """Return the same without a terminal and without what can be looked up again."""
        return replace(self, meter=SilentMeter())

    @cached_property
    def plan(self) -> Plan:
        """All packs, and the domains that are too large for one."""
        layout = whole_layout(self.start, 0)
        listed = sum(block.columns.stop - block.columns.start for block in self._blocks if block.kind == "mean")
        itemsize = self.start.output.weight.element_size()
        footprint = Footprint(self.start.shape, layout, self.terms.schedule, itemsize, listed)
        sizes = (
            Size(
                place,
                self._count(self._train, place),
                self._count(self._stop, place) + self._count(self._score, place),
                len(self._own_rows(place)),
            )
            for place in self._places()
        )
        return plan(sizes, footprint, self.config)

    def one(self, place: Place, memory: Memory, falling: bool = False) -> TrainedWhole:
        """Train one domain by itself.

        Args:
            place: the domain.
            memory: where it keeps what it has learned.
            falling: as `Loop` takes it; packs have none.
        """
        shape = replace(self.start.shape, dropout=self.terms.schedule.dropout)
        network = Backbone(shape, self.rows.given)
        network.to(self.start.output.weight.dtype).load_state_dict(self.start.state_dict())
        train, stop, score = (rows.of(place.division, place.domain) for rows in (self._train, self._stop, self._score))

        def logits(part: Tensor) -> Tensor:
            found: Tensor = network(self.rows.batch(part))
            return found

        trainee = Trainee(
            layer=network,
            trained=network.requires_grad_(True),
            prepare=lambda: None,
            loss=lambda batch: functional.binary_cross_entropy_with_logits(logits(batch), self.rows.label[batch]),
            auc=lambda: self.rows.auc(stop, logits_of(stop, logits)),
            start_counts=self.terms.start_counts,
        )
        stream = self._stream_of(place)
        schedule, select = self.terms.schedule, self.terms.select
        fitted = Loop(trainee, train, schedule, select, stream, memory, self.meter, falling=falling).run()
        return TrainedWhole(place, fitted, score, logits_of(score, logits))

    def pack(self, pack: Pack, memory: Memory) -> list[TrainedWhole]:
        """Train one pack, or take the finished one: its scores are kept, not its weights.

        Raises:
            StateMismatch: the checkpoint is of other settings, or of another pack.
        """
        rows = [self._score.of(place.division, place.domain) for place in pack.places]
        saved = memory.load()
        if saved is None:
            logits, fitted = self._train_pack(pack, memory.name)
            memory.save({"logits": logits}, record_of(fitted))
        else:
            logits, fitted = saved.tensors["logits"], fitted_of(saved.record)
        parts = torch.split(logits, [len(part) for part in rows])
        return [TrainedWhole(*each[:3], each[3].numpy()) for each in zip(pack.places, fitted, rows, parts, strict=True)]

    def _train_pack(self, pack: Pack, name: str) -> tuple[Tensor, list[Fitted]]:
        ids = [self._own_rows(place) for place in pack.places]
        train, stop, score = (self._inputs(rows, pack, ids) for rows in (self._train, self._stop, self._score))
        table_rows = max(1, *map(len, ids))
        layout = whole_layout(self.start, table_rows)
        start = layout.stacked(whole_tensors(self.start, ids, table_rows))
        network = WholeNetwork(self.start, layout, self._blocks)
        courses = [
            Course(place, self._stream_of(place), rows, judged, EarlyStopping(self.terms.schedule.patience))
            for place, rows, judged in zip(
                pack.places, split_domains(train.counts), split_domains(stop.counts), strict=True
            )
        ]
        stack: Stack = PackLoop(network, start, courses, train, stop, self.terms, name, self.meter).run()
        logits = scored(network, stack, score, split_domains(score.counts))
        return logits, [course.fitted(self.terms) for course in courses]

    def _inputs(self, rows: DomainRows, pack: Pack, ids: Sequence[Tensor]) -> LocalInputs:
        parts = [rows.of(place.division, place.domain) for place in pack.places]
        return LocalInputs(self.start, self.rows, parts, ids)

    def _places(self) -> Iterator[Place]:
        return (place for place in places(self.rows) if place.division == 0)

    def _own_rows(self, place: Place) -> Tensor:
        chosen = (self._train, self._stop, self._score)
        return own_rows(self.start, self.rows, [rows.of(place.division, place.domain) for rows in chosen])

    def _stream_of(self, place: Place) -> Stream:
        return self.stream.of(place.division_name, place.name)

    @staticmethod
    def _count(rows: DomainRows, place: Place) -> int:
        return rows.count(place.division, place.domain)

    @cached_property
    def _blocks(self) -> list[Block]:
        return blocks(self.start, self.rows.batch(self.train[:1]))

    @cached_property
    def _train(self) -> DomainRows:
        return DomainRows(self.rows, self.train)

    @cached_property
    def _stop(self) -> DomainRows:
        return DomainRows(self.rows, self.stop)

    @cached_property
    def _score(self) -> DomainRows:
        return DomainRows(self.rows, self.score)
