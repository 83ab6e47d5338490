"""The one training loop of all stages: epochs of shuffled batches, early stopping, and a checkpoint after each epoch.

Whatever an epoch draws comes from a stream named by the epoch, and the checkpoint holds weights, moments of Adam, the
best weights so far and, where there is one, the average. So a loop that was killed and started again ends with the
weights of one that was not, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from training.averaging import TailAverage
from training.batches import split_batches
from training.checkpoint import Memory, Record, Saved
from training.config import Schedule, Select
from training.early_stopping import EarlyStopping
from training.progress import Meter
from training.seeds import Stream


@dataclass(frozen=True)
class Trainee:
    """What a stage trains.

    Args:
        layer: put into training and eval mode.
        trained: holds every tensor that training changes.
        prepare: brings `trained` to its start; not called when a checkpoint does.
        loss: mean loss of the rows at some positions, in training mode.
        auc: the validation AUC in eval mode; None where it is not defined.
        start_counts: whether the untrained start is a candidate.
        undecayed: parameters of `trained` that the schedule's weight decay leaves alone.
    """

    layer: nn.Module
    trained: nn.Module
    prepare: Callable[[], None]
    loss: Callable[[Tensor], Tensor]
    auc: Callable[[], float | None]
    start_counts: bool
    undecayed: Sequence[nn.Parameter] = ()


@dataclass(frozen=True)
class Fitted:
    """How a training loop went.

    Args:
        history: a record for each epoch {epoch, loss, auc, seconds}, and average_auc where weights are averaged; epoch
            0, where it is there, is the start. A loss that is not finite is None.
        epoch: whose weights are in place now; 0 is the untrained start.
        averaged: they are the average as it was after that epoch.
    """

    history: tuple[Record, ...]
    epoch: int
    averaged: bool = False

    @property
    def auc(self) -> float | None:
        """Validation AUC of the weights in place."""
        key = "average_auc" if self.averaged else "auc"
        return next((entry[key] for entry in self.history if entry["epoch"] == self.epoch), None)


class Loop:
    """Trains one trainee.

    Args:
        trainee: what is trained.
        rows: (n,) training rows.
        schedule: how long and how fast.
        select: `best` restores the best epoch, or the average after it; `last_epoch` neither stops early nor restores.
        stream: where its random numbers come from.
        memory: where it keeps its checkpoint.
        meter: where progress goes.
        clock: seconds, for the speed shown.
        falling: the step size falls linearly to zero over all of the schedule's epochs.
    """

    def __init__(
        self,
        trainee: Trainee,
        rows: Tensor,
        schedule: Schedule,
        select: Select,
        stream: Stream,
        memory: Memory,
        meter: Meter,
        clock: Callable[[], float] = time.monotonic,
        falling: bool = False,
    ) -> None:
        self._falling = falling
        self._trainee = trainee
        self._rows = rows
        self._schedule = schedule
        self._select = select
        self._stream = stream
        self._memory = memory
        self._meter = meter
        self._clock = clock
        self._stopping = EarlyStopping(schedule.patience)
        self._history: list[Record] = []
        self._epoch = 0
        self._best: dict[str, Tensor] = {}
        self._averaged = False
        self._average = TailAverage() if schedule.average is not None and select == "best" else None
        groups = _groups(trainee)
        self._optimizer: torch.optim.Optimizer | None = (
            None  # of a trainee that learns nothing, such as no pair's norms
        )
        if groups:
            self._optimizer = torch.optim.Adam(groups, schedule.lr, weight_decay=schedule.weight_decay, fused=True)

    def run(self) -> Fitted:
        """Train to the end, from the checkpoint if there is one, and leave the selected weights in place."""
        saved = self._memory.load()
        if saved is None:
            self._trainee.prepare()
            self._start()
        else:
            self._restore(saved)
        if saved is None or not saved.record["finished"]:
            self._train()
        averaged = False
        if self._select == "best" and self._stopping.best_epoch is not None:
            self._trainee.trained.load_state_dict(self._best)
            self._epoch, averaged = self._stopping.best_epoch, self._averaged
        self._trainee.layer.eval()
        return Fitted(tuple(self._history), self._epoch, averaged)

    def _start(self) -> None:
        if self._trainee.start_counts:
            self._judge(0, None, 0.0)

    def _train(self) -> None:
        if self._over():
            self._keep(finished=True)
            return
        with self._meter.watch(self._memory.name, self._schedule.epochs * len(self._rows)) as advance:
            advance(self._epoch * len(self._rows))
            while self._optimizer is not None and not self._over():
                self._pass(self._optimizer, advance)
                self._keep(finished=self._over())

    def _over(self) -> bool:
        if self._optimizer is None or self._epoch >= self._schedule.epochs or len(self._rows) == 0:
            return True
        if self._select == "last_epoch":
            return False
        if self._trainee.start_counts and self._stopping.best_epoch is None:
            return True  # the start has no AUC, so no epoch can be shown to be better
        return self._epoch > 0 and self._stopping.exhausted(self._epoch)

    def _pass(self, optimizer: torch.optim.Optimizer, advance: Callable[[int], None]) -> None:
        """Train one epoch and judge it."""
        self._epoch += 1
        began = self._clock()
        order = self._stream.of("order", self._epoch).generator()
        batches = split_batches(self._rows, self._schedule.batch_rows, self._schedule.min_batches, order)
        total = torch.zeros((), dtype=torch.float64)
        learned = self._trainee.trained.state_dict()  # shares memory with what the steps move
        self._trainee.layer.train()
        with self._stream.of("dropout", self._epoch).ambient():
            for i, batch in enumerate(batches):
                if self._falling:
                    done = (self._epoch - 1 + i / len(batches)) / self._schedule.epochs
                    for group in optimizer.param_groups:
                        group["lr"] = self._schedule.lr * (1 - done)
                optimizer.zero_grad(set_to_none=True)
                loss = self._trainee.loss(batch)
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                optimizer.step()
                if self._average is not None:
                    self._average.follow(learned)
                total += loss.detach() * len(batch)
                advance(len(batch))
        self._judge(self._epoch, float(total) / len(self._rows), self._clock() - began)

    def _judge(self, epoch: int, loss: float | None, seconds: float) -> None:
        self._trainee.layer.eval()
        auc = self._trainee.auc()
        self._history.append({"epoch": epoch, "loss": recorded(loss), "auc": auc, "seconds": round(seconds, 3)})
        if self._stopping.observe(epoch, auc):
            self._best, self._averaged = _copied(self._trainee.trained), False
        if epoch > 0:
            shown = "undefined (one class)" if auc is None else f"{auc:.5f}"
            if self._average is not None:
                average = self._history[-1]["average_auc"] = self._judge_average(self._average, epoch)
                shown += "" if average is None else f" (averaged {average:.5f})"
            speed = len(self._rows) / max(seconds, 1e-9)
            self._meter.say(
                f"{self._memory.name} epoch {epoch}: loss {loss:.4f}, validation AUC {shown}, {speed:,.0f} rows/s"
            )

    def _judge_average(self, average: TailAverage, epoch: int) -> float | None:
        """Judge the average in the place of the weights, which are put back; it is kept where it is the best so far."""
        trained = self._trainee.trained
        weights = _copied(trained)
        trained.load_state_dict(average.mean)
        auc = self._trainee.auc()
        if self._stopping.observe(epoch, auc):
            self._best, self._averaged = _copied(trained), True
        trained.load_state_dict(weights)
        return auc

    def _keep(self, finished: bool) -> None:
        tensors = {f"trained.{name}": value for name, value in self._trainee.trained.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self._best.items()}
        if self._optimizer is not None and not finished:
            for i, entry in self._optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{key}": value for key, value in entry.items()}
        record = {
            "epoch": self._epoch,
            "history": self._history,
            "best_epoch": self._stopping.best_epoch,
            "best_auc": self._stopping.best_score,
            "finished": finished,
        }
        if self._average is not None:
            record |= {"averaged": self._averaged, "steps": self._average.steps}
            if not finished:
                tensors |= {f"average.{name}": value for name, value in self._average.mean.items()}
        self._memory.save(tensors, record)

    def _restore(self, saved: Saved) -> None:
        parts = _by_prefix(saved.tensors)
        if self._average is not None:
            self._average = TailAverage(parts.get("average"), int(saved.record["steps"]))
            self._averaged = bool(saved.record["averaged"])
        self._trainee.trained.load_state_dict(parts.get("trained", {}))
        self._best = parts.get("best", {})
        self._history = list(saved.record["history"])
        self._epoch = int(saved.record["epoch"])
        self._stopping.observe(saved.record["best_epoch"], saved.record["best_auc"])
        if self._optimizer is not None and "optimizer" in parts:
            content = self._optimizer.state_dict()
            content["state"] = {}
            for name, value in parts["optimizer"].items():
                i, key = name.split(".", 1)
                content["state"].setdefault(int(i), {})[key] = value
            self._optimizer.load_state_dict(content)


def recorded(loss: float | None) -> float | None:
    """Return a loss as a record can hold it: None where it is not finite, because training ran away."""
    return loss if loss is not None and math.isfinite(loss) else None


def _groups(trainee: Trainee) -> list[dict[str, Any]]:
    """What is learned, those parameters last that have no weight decay; no empty group."""
    learned = [parameter for parameter in trainee.trained.parameters() if parameter.requires_grad]
    free = {id(parameter) for parameter in trainee.undecayed}
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in learned if id(parameter) not in free]},
        {"params": [parameter for parameter in learned if id(parameter) in free], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _by_prefix(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        prefix, rest = name.split(".", 1)
        parts.setdefault(prefix, {})[rest] = value
    return parts
