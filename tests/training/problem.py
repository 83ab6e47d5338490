"""A regression so small that a training loop on it takes no time, and what a kill is in a test."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.loops import Trainee

ROWS = 200


class Killed(Exception):
    """Stands for SIGKILL inside a loop."""


class Problem:
    """A small regression with dropout, so that order and masks both matter.

    Args:
        aucs: what validation says, one value a call; the last one is repeated.
        kill_after: raise `Killed` at this loss call.
        undecayed: positions of the parameters without weight decay.
    """

    def __init__(
        self, aucs: Sequence[float | None] = (0.5,), kill_after: int | None = None, undecayed: Sequence[int] = ()
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self._x = torch.randn(ROWS, 4, generator=generator)
        self._y = self._x.sum(1, keepdim=True)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self._aucs = list(aucs)
        self._kill_after = kill_after
        self._undecayed = [list(self.net.parameters())[position] for position in undecayed]
        self.losses = 0

    def trainee(self, start_counts: bool = True) -> Trainee:
        return Trainee(self.net, self.net, lambda: None, self._loss, self._auc, start_counts, self._undecayed)

    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.net.state_dict().items()}

    def _loss(self, rows: Tensor) -> Tensor:
        self.losses += 1
        if self._kill_after is not None and self.losses > self._kill_after:
            raise Killed
        return functional.mse_loss(self.net(self._x[rows]), self._y[rows])

    def _auc(self) -> float | None:
        return self._aucs.pop(0) if len(self._aucs) > 1 else self._aucs[0]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
