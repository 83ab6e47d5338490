"""Epochs of a framework: selection by the domains' mean AUC, patience, and a checkpoint after each epoch.

theta_S and every theta_i are kept together: the best epoch's state is one thing. A training that was killed and
resumed ends with the tensors of one that was not, bit for bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from training.checkpoint import Memory, Record, Saved
from training.early_stopping import EarlyStopping
from training.frameworks.framework import Framework
from training.frameworks.scoring import domain_aucs, mean_auc
from training.frameworks.setting import Setting
from training.frameworks.state import State
from training.progress import Meter

STATE, SPREAD = "mamdr", "cluster"
"""Where a run's state keeps the training of one process, and what a cluster's shards and workers leave."""
_NOW, _BEST = "now|", "best|"
Judge = Callable[[State], list[float | None]]


@dataclass(frozen=True)
class Fitted:
    """How the epochs went.

    Args:
        state: theta_S and theta_i of the selected epoch; its optimizers are those of the last.
        history: a record for each epoch {epoch, loss, auc (the mean), aucs (by domain), seconds}.
        epoch: the selected one.
    """

    state: State
    history: tuple[Record, ...]
    epoch: int

    @property
    def auc(self) -> float | None:
        """Mean validation AUC of the selected epoch."""
        return next((entry["auc"] for entry in self.history if entry["epoch"] == self.epoch), None)


class Fit:
    """Trains one framework to the end.

    Args:
        framework: what an epoch is.
        judge: the validation AUC of each domain.
        epochs: at most.
        patience: epochs without a better mean before it stops.
        memory: of its checkpoint.
        meter: where progress goes.
        start_counts: whether the state before the first epoch is a candidate, as epoch 0.
        clock: seconds.
    """

    def __init__(
        self,
        framework: Framework,
        judge: Judge,
        epochs: int,
        patience: int,
        memory: Memory,
        meter: Meter,
        start_counts: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._framework = framework
        self._judge = judge
        self._epochs = epochs
        self._memory = memory
        self._meter = meter
        self._start_counts = start_counts
        self._clock = clock
        self._stopping = EarlyStopping(patience)
        self._history: list[Record] = []
        self._epoch = 0
        self._best: dict[str, Tensor] = {}
        self._state = framework.start()

    def run(self) -> Fitted:
        """Train, from the checkpoint if there is one.

        Raises:
            StateMismatch: the checkpoint is of other settings.
        """
        saved = self._memory.load()
        if saved is not None:
            self._restore(saved)
        elif self._start_counts:
            self._judged(None, 0.0)
        while not self._over():
            self._pass()
            self._keep()
        best = State({})
        best.load(self._best)
        best.optimizers = self._state.optimizers
        kept = self._stopping.best_epoch
        return Fitted(best, tuple(self._history), self._epoch if kept is None else kept)

    def _over(self) -> bool:
        return self._epoch >= self._epochs or (self._epoch > 0 and self._stopping.exhausted(self._epoch))

    def _pass(self) -> None:
        self._epoch += 1
        began = self._clock()
        loss = self._framework.epoch(self._state, self._epoch)
        self._judged(loss, self._clock() - began)

    def _judged(self, loss: float | None, seconds: float) -> None:
        """Judge the state as it is, and keep it where it is the best so far."""
        aucs = self._judge(self._state)
        mean = mean_auc(aucs)
        shown_loss = None if loss is None or math.isnan(loss) else loss
        entry = {"epoch": self._epoch, "loss": shown_loss, "auc": mean, "aucs": aucs, "seconds": round(seconds, 3)}
        self._history.append(entry)
        # without any AUC there is nothing to select by: the last epoch is kept
        if self._stopping.observe(self._epoch, mean) or self._stopping.best_epoch is None:
            self._best = self._state.learned()
        shown = "undefined (one class)" if mean is None else f"{mean:.5f}"
        told = "" if shown_loss is None else f"loss {shown_loss:.4f}, "
        self._meter.say(f"{self._memory.name} epoch {self._epoch}: {told}mean validation AUC {shown}, {seconds:.1f} s")

    def _keep(self) -> None:
        tensors = {_NOW + name: value for name, value in self._state.tensors().items()}
        tensors |= {_BEST + name: value for name, value in self._best.items()}
        record = {
            "epoch": self._epoch,
            "history": self._history,
            "best_epoch": self._stopping.best_epoch,
            "best_auc": self._stopping.best_score,
            "finished": self._over(),
        }
        self._memory.save(tensors, record)

    def _restore(self, saved: Saved) -> None:
        self._state.load({n.removeprefix(_NOW): v for n, v in saved.tensors.items() if n.startswith(_NOW)})
        self._best = {n.removeprefix(_BEST): v for n, v in saved.tensors.items() if n.startswith(_BEST)}
        self._history = list(saved.record["history"])
        self._epoch = int(saved.record["epoch"])
        self._stopping.observe(saved.record["best_epoch"], saved.record["best_auc"])


def fit(setting: Setting, framework_of: Callable[[Setting], Framework], memory: Memory, meter: Meter) -> Fitted:
    """Train a framework on a setting, judged on the domains' `stop` rows.

    Args:
        setting: network, rows, configuration.
        framework_of: builds the framework; `training.frameworks.table.FRAMEWORKS` has them by name.
        memory: of the checkpoint.
        meter: where progress goes.

    Raises:
        StateMismatch: the checkpoint is of other settings.
    """
    config = setting.config
    total = config.epochs * rows_of_epoch(setting)
    with meter.watch(memory.name, total) as advance:
        watched = replace(setting, advance=advance)
        framework = framework_of(watched)
        judge: Judge = lambda state: domain_aucs(watched, state, watched.domains.stop)  # noqa: E731
        return Fit(framework, judge, config.epochs, config.patience, memory, meter).run()


def remember(memory: Memory, fitted: Fitted) -> None:
    """Leave a training that something else has finished where `fit` leaves its own, to be taken and not run again.

    Args:
        memory: of the checkpoint.
        fitted: what was found; of its state theta_S, the theta_i and the moments are kept.
    """
    learned = fitted.state.learned()
    tensors = {part + name: value for part in (_NOW, _BEST) for name, value in learned.items()}
    record = {
        "epoch": len(fitted.history),
        "history": list(fitted.history),
        "best_epoch": None if fitted.auc is None else fitted.epoch,
        "best_auc": fitted.auc,
        "finished": True,
    }
    memory.save(tensors, record)


def rows_of_epoch(setting: Setting) -> int:
    """Return about how many rows an epoch passes: 1 + 2k times the training rows with Domain Regularization."""
    rows = sum(map(len, setting.domains.train))
    config = setting.config
    rounds = config.regularization.others + int(config.regularization.include_target)
    return rows * (1 + 2 * rounds) if config.framework in ("dr", "mamdr") else rows
