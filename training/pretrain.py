"""Stage 1: the backbone, on all rows and with all parameters (methods.md 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from network.backbone import Backbone
from network.inputs import NetworkShape
from training.batches import EVAL_ROWS, RowTensors, logits_of
from training.checkpoint import Memory
from training.config import Schedule
from training.loops import Fitted, Loop, Trainee
from training.progress import Meter
from training.seeds import Stream


@dataclass(frozen=True)
class Pretrained:
    """What stage 1 gives.

    Args:
        backbone: frozen, row 0 of every table set.
        fitted: how its training went.
    """

    backbone: Backbone
    fitted: Fitted


def pretrain(
    rows: RowTensors,
    train: Tensor,
    stop: Tensor,
    shape: NetworkShape,
    schedule: Schedule,
    stream: Stream,
    memory: Memory,
    meter: Meter,
) -> Pretrained:
    """Train the backbone; the epoch with the best validation AUC is kept.

    Args:
        rows: the data set.
        train: (n,) positions of the training rows.
        stop: (n,) positions of the validation rows that serve early stopping.
        shape: of the network.
        schedule: how long and how fast.
        stream: of this stage's random numbers.
        memory: of its checkpoint.
        meter: where progress goes.

    Raises:
        StateMismatch: the checkpoint is of other settings.
    """
    with stream.of("start").ambient():
        backbone = Backbone(shape, rows.given)
    counts = count_rows(backbone, rows, train)

    def loss(batch: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(backbone(rows.batch(batch)), rows.label[batch])

    def auc() -> float | None:
        # unknown values score on row 0, so an epoch is judged with the row 0 that it would be exported with
        backbone.embeddings.fill_unknown(counts)
        return rows.auc(stop, logits_of(stop, lambda part: backbone(rows.batch(part))))

    trainee = Trainee(backbone, backbone, lambda: None, loss, auc, start_counts=False)
    # adapters need a backbone to start from, so the best epoch is taken whatever the stages after it select
    fitted = Loop(trainee, train, schedule, "best", stream, memory, meter).run()
    return Pretrained(backbone.freeze(), fitted)


def count_rows(backbone: Backbone, rows: RowTensors, train: Tensor) -> Tensor:
    """Count how often the training rows use each row of the concatenated embedding table (rows,) int64."""
    total = torch.zeros(backbone.embeddings.table.shape[0], dtype=torch.int64)
    for part in torch.split(train, EVAL_ROWS):
        total += backbone.embeddings.occurrences(rows.batch(part))
    return total
