"""The probe of one division: its domains' LoRAs, trained for a moment in packs and scored on rows they never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from features.fields import Division
from network.backbone import Backbone
from training.adapters import AdapterTrainer, TrainedAdapter
from training.batches import RowTensors, logits_of
from training.chooser.estimate import Floats, entropy, losses
from training.config import AdapterConfig, Schedule
from training.dataset import EncodedDataset
from training.metrics import probabilities
from training.packed.adapters import PackedAdapters
from training.packed.config import PackedConfig
from training.packed.packer import MemoryOf
from training.progress import Meter
from training.seeds import Stream


@dataclass(frozen=True)
class Probed:
    """What the probe of one division found on the judged rows; a row without a domain is the backbone's throughout.

    Args:
        own: (n,) each row's loss under the adapter of its own domain, in nats.
        others: (n,) its mean loss under the other domains' adapters, weighted by their training rows.
        divergence: (n,) how far all the domains disagree about its click, in nats.
        inside: (n,) whether it lies in a domain.
    """

    own: Floats
    others: Floats
    divergence: Floats
    inside: NDArray[np.bool_]

    @property
    def advantage(self) -> Floats:
        """What each row gains (n,) by its own domain's adapter over another's.

        All adapters have been trained for as long, so what any training would have given cancels.
        """
        return self.others - self.own


@dataclass(frozen=True)
class Probe:
    """Trains and scores divisions on one frozen backbone, all under the same terms.

    Args:
        backbone: frozen.
        dataset: encoded.
        train: (t,) positions of the training rows.
        judged: (n,) positions of the rows that are scored; nothing is fitted on them.
        adapter: what an adapter is.
        schedule: how long and how fast; there is no early stop, so that the judged rows select nothing.
        packed: how large a pack may be.
        meter: where progress goes.
    """

    backbone: Backbone
    dataset: EncodedDataset
    train: Tensor
    judged: Tensor
    adapter: AdapterConfig
    schedule: Schedule
    packed: PackedConfig
    meter: Meter

    def run(self, division: Division, domain: NDArray[Any], stream: Stream, memory_of: MemoryOf) -> Probed:
        """Probe one division.

        Args:
            division: its name and domains.
            domain: (all rows,) positions in its domains; -1 is none.
            stream: of its random numbers.
            memory_of: where packs keep what they have learned.

        Raises:
            StateMismatch: a checkpoint is of other settings.
        """
        column = domain.astype(np.int32)
        rows = RowTensors(replace(self.dataset, divisions=(division,), division={division.name: column}))
        nothing = self.judged[:0]
        trainer = AdapterTrainer(
            self.backbone, rows, self.train, nothing, self.adapter, self.schedule, "last_epoch", stream, self.meter
        )
        adapters = list(PackedAdapters(trainer, self.packed).each(memory_of))
        return self._scored(adapters, column[self.judged.numpy()])

    @cached_property
    def label(self) -> Floats:
        """Labels (n,) of the judged rows."""
        label: Floats = self.dataset.label[self.judged.numpy()].astype(np.float64)
        return label

    @cached_property
    def backbone_loss(self) -> Floats:
        """Losses (n,) of the judged rows without any adapter."""
        return losses(self.label, logits_of(self.judged, lambda part: self.backbone(self._rows.batch(part))))

    def _scored(self, adapters: Sequence[TrainedAdapter], domain: NDArray[np.int32]) -> Probed:
        """Let every domain's adapter score every judged row.

        Divergence is H(sum of w p) - sum of w H(p) with w by training rows: the mutual information of domain and click
        given the row, as the adapters have it. Source: the generalised Jensen-Shannon divergence, Lin (1991).
        """
        total = sum(trained.rows for trained in adapters)
        weighted, mean, apart = (np.zeros(len(domain)) for _ in range(3))
        own, left = self.backbone_loss.copy(), np.zeros(len(domain))
        for trained in adapters:
            weight = trained.rows / total if total else 0.0
            logits = self._logits(trained)
            loss, probability = losses(self.label, logits), probabilities(logits)
            mine = domain == trained.place.domain
            own[mine], left[mine] = loss[mine], 1.0 - weight
            weighted += weight * np.where(mine, 0.0, loss)
            mean += weight * probability
            apart += weight * entropy(probability)
        others = np.divide(weighted, left, out=own.copy(), where=left > 0.0)
        return Probed(own, others, entropy(mean) - apart, domain >= 0)

    def _logits(self, trained: TrainedAdapter) -> Floats:
        return logits_of(self.judged, lambda part: self.backbone(self._rows.batch(part), trained.adapter))

    @cached_property
    def _rows(self) -> RowTensors:
        return RowTensors(self.dataset)
