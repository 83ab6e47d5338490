"""How the training of one domain of a pack goes: its batches, its early stop and its history."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from training.adapters import Place
from training.batches import split_batches
from training.checkpoint import Record
from training.config import Schedule, Select
from training.early_stopping import EarlyStopping
from training.loops import Fitted, recorded
from training.seeds import Stream


@dataclass(frozen=True)
class Terms:
    """What is agreed for all domains of a stage.

    Args:
        schedule: how long and how fast.
        select: the best epoch, or the last.
        start_counts: whether the untrained start is a candidate.
    """

    schedule: Schedule
    select: Select
    start_counts: bool = True

    @property
    def averages(self) -> bool:
        """Whether averages of the steps are judged too."""
        return self.schedule.average is not None and self.select == "best"


@dataclass
class Course:
    """One domain's way through a pack, by the rules of `training.loops.Loop`.

    Args:
        place: the domain.
        stream: where its random numbers come from.
        rows: (n,) positions of its training rows in the pack's inputs.
        stop: (s,) positions of its validation rows in theirs.
        stopping: its early stop.
        epoch: how many it has been trained.
        averaged: what is best so far is an average.
    """

    place: Place
    stream: Stream
    rows: Tensor
    stop: Tensor
    stopping: EarlyStopping
    epoch: int = 0
    history: list[Record] = field(default_factory=list)
    averaged: bool = False

    def batches(self, epoch: int, terms: Terms) -> tuple[Tensor, ...]:
        """Return the batches of one epoch: those that the domain has where it is trained alone."""
        order = self.stream.of("order", epoch).generator()
        return split_batches(self.rows, terms.schedule.batch_rows, terms.schedule.min_batches, order)

    def judge(self, loss: float | None, auc: float | None, seconds: float) -> bool:
        """Take an epoch's result and say whether it is the best so far."""
        self.history.append({"epoch": self.epoch, "loss": recorded(loss), "auc": auc, "seconds": round(seconds, 6)})
        better = self.stopping.observe(self.epoch, auc)
        self.averaged = self.averaged and not better
        return better

    def judge_average(self, auc: float | None) -> bool:
        """Take what the average is worth after the same epoch, and say whether it is the best so far."""
        self.history[-1]["average_auc"] = auc
        better = self.stopping.observe(self.epoch, auc)
        self.averaged = self.averaged or better
        return better

    def over(self, terms: Terms) -> bool:
        """Whether there is no epoch to come."""
        if self.epoch >= terms.schedule.epochs or len(self.rows) == 0:
            return True
        if terms.select == "last_epoch":
            return False
        if terms.start_counts and self.stopping.best_epoch is None:
            return True  # the start has no AUC, so no epoch can be shown to be better
        return self.epoch > 0 and self.stopping.exhausted(self.epoch)

    def keeps_best(self, terms: Terms) -> bool:
        """Whether its best weights are taken in the end, not its last."""
        return terms.select == "best" and self.stopping.best_epoch is not None

    def fitted(self, terms: Terms) -> Fitted:
        """How it went, once it is over."""
        best = self.stopping.best_epoch
        if not self.keeps_best(terms) or best is None:
            return Fitted(tuple(self.history), self.epoch)
        return Fitted(tuple(self.history), best, self.averaged)
