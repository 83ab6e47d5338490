"""Stage 3 packed: the fusion and the tuples' norms, all tuples of a batch in a few batched products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from network.fused import FusedTower
from network.fusion import Mode
from training.batches import EVAL_ROWS, logits_of
from training.checkpoint import Memory
from training.config import Schedule
from training.fusion import FusionTrainer, TrainedFusion
from training.loops import Loop, Trainee
from training.packed.adam import move
from training.packed.fused import StackedFused


@dataclass(frozen=True)
class PackedFusionTrainer(FusionTrainer):
    """Trains the fusion of one backbone's adapters with the steps of `FusionTrainer`, its tuples stacked.

    Raises:
        ConfigError: where it trains or scores: the backbone's kind has adapters on maps of every field.
    """

    def one(self, mode: Mode, memory: Memory) -> TrainedFusion:
        """Train one mode; see `FusionTrainer.one`.

        Raises:
            StateMismatch: the checkpoint is of other settings.
        """
        tower = self.untrained(mode)
        stacked = self._stacked(tower)
        trained = nn.ModuleList([stacked.norms] if stacked.fusion is None else [stacked.norms, stacked.fusion])
        trainee = Trainee(
            layer=stacked,
            trained=trained,
            prepare=lambda: self._move_norms(stacked),
            loss=lambda batch: self._mean_loss(stacked, batch),
            auc=lambda: self.rows.auc(self.stop, self._score(stacked, self.stop)),
            start_counts=mode != "attention",
        )
        stream = self.stream.of(mode)
        optimizer = _optimizer(stacked, self.schedule)
        loop = _FusionLoop(trainee, self.train, self.schedule, self.select, stream, memory, self.meter)
        fitted = loop.stepping(optimizer).run()
        stacked.write()
        return TrainedFusion(mode, tower.requires_grad_(False).eval(), fitted, self._pair_rows(tower))

    def logits(self, tower: FusedTower, rows: Tensor) -> NDArray[np.float64]:
        """Score the rows at some positions; the tower must be in eval mode."""
        return self._score(self._stacked(tower).eval(), rows)

    def _stacked(self, tower: FusedTower) -> StackedFused:
        return StackedFused(self.backbone, tower, self.rows.domains)

    def _score(self, stacked: StackedFused, rows: Tensor) -> NDArray[np.float64]:
        def score(part: Tensor) -> Tensor:
            logits, batch = stacked.score(self.rows.batch, part)
            return batch.restore(logits)

        return logits_of(rows, score)

    def _move_norms(self, stacked: StackedFused) -> None:
        if self.moments == "compensated":
            stacked.compensate(self.rows.batch, torch.split(self.train, EVAL_ROWS))

    def _mean_loss(self, stacked: StackedFused, rows: Tensor) -> Tensor:
        logits, batch = stacked.score(self.rows.batch, rows)
        return functional.binary_cross_entropy_with_logits(logits, self.rows.label[rows[batch.order]])


class _FusionLoop(Loop):
    """The loop of all stages, with another optimizer."""

    def stepping(self, optimizer: torch.optim.Optimizer | None) -> Loop:
        """Take steps by this optimizer; None where nothing is learned."""
        self._optimizer = optimizer
        return self


class RowAdam(torch.optim.Optimizer):
    """Adam with coupled L2 that moves, of stacked parameters, only the rows of the last batch.

    A norm that no row of a batch used takes no step where it is a parameter of its own; as a row of a stack it would
    be moved by its old moments and by the decay.

    Args:
        stacked: parameters (t, d) of which each row is one.
        whole: parameters that move as a whole.
        schedule: step size and weight decay.
        rows: gives the rows (s,) of `stacked` that the last batch used.
    """

    def __init__(
        self,
        stacked: Sequence[nn.Parameter],
        whole: Sequence[nn.Parameter],
        schedule: Schedule,
        rows: Callable[[], Tensor],
    ) -> None:
        self._schedule = schedule
        self._rows = rows
        groups = [
            {"params": list(params), "stacked": kind} for params, kind in ((stacked, True), (whole, False)) if params
        ]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # no closure is ever given
        """Take one step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, self._rows() if group["stacked"] else None)

    def _move(self, parameter: Tensor, gradient: Tensor, rows: Tensor | None) -> None:
        flat = parameter.detach() if rows is not None else parameter.detach().view(1, -1)
        places = torch.zeros(1, dtype=torch.int64) if rows is None else rows
        state = self.state[parameter]
        if not state:
            state |= {"step": torch.zeros(len(flat), 1, dtype=torch.float64)}
            state |= {key: torch.zeros_like(flat) for key in ("mean", "square")}
        state["step"][places] += 1
        whole = (flat, state["mean"], state["square"])
        chosen, mean, square = (value.index_select(0, places) for value in whole)
        move(
            chosen,
            gradient.view(flat.shape).index_select(0, places),
            mean,
            square,
            state["step"][places],
            self._schedule,
        )
        for value, part in zip(whole, (chosen, mean, square), strict=True):
            value.index_copy_(0, places, part)


def _optimizer(stacked: StackedFused, schedule: Schedule) -> RowAdam | None:
    norms = list(stacked.norms.parameters()) if stacked.table.own else []
    fusion = [] if stacked.fusion is None else [p for p in stacked.fusion.parameters() if p.requires_grad]
    return RowAdam(norms, fusion, schedule, lambda: stacked.present) if norms or fusion else None
