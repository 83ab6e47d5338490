"""SGD, Adam and Adagrad over named tensors, with row-lazy steps for embedding tables.

torch's optimizers own their parameters and cannot step a stack of domains at once, a shard of rows, or a table of which
only some rows have a gradient together with dense tensors. These are the same rules (a test holds them to torch's).
Sources: Kingma & Ba (2015), algorithm 1; Duchi et al. (2011); rows as in torch.optim.SparseAdam.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Name = Literal["sgd", "adam", "adagrad"]

_SLOTS: Mapping[Name, tuple[str, ...]] = {"sgd": (), "adam": ("mean", "square"), "adagrad": ("sum",)}
_STEP = "step"


@dataclass(frozen=True)
class Rule:
    """How a gradient becomes a change.

    Args:
        name: sgd, adam or adagrad.
        lr: step size.
        betas: Adam's decays of its two moments.
        weight_decay: coupled L2, on dense tensors only.
    """

    name: Name
    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0

    @property
    def slots(self) -> tuple[str, ...]:
        """What it remembers for each weight."""
        return _SLOTS[self.name]

    def change(self, gradient: Tensor, slots: Mapping[str, Tensor], step: int) -> Tensor:
        """Return what is added to the weights, and move the slots in place.

        Args:
            gradient: of the weights.
            slots: what is remembered, each of the gradient's shape.
            step: how many steps, this one included.
        """
        if self.name == "sgd":
            return gradient * -self.lr
        if self.name == "adagrad":
            slots["sum"].addcmul_(gradient, gradient)
            return gradient / (slots["sum"].sqrt() + 1e-10) * -self.lr
        first, second = self.betas
        slots["mean"].lerp_(gradient, 1 - first)
        slots["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        root = slots["square"].sqrt().div_(math.sqrt(1 - second**step)).add_(1e-8)
        return torch.div(slots["mean"], root, out=root).mul_(-self.lr / (1 - first**step))


class Optimizer:
    """A rule and what it remembers, for dense tensors by name and for rows of tables.

    Args:
        rule: what to do with a gradient.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._steps = 0
        self._slots: dict[str, dict[str, Tensor]] = {}

    def reset(self) -> None:
        """Forget everything."""
        self._steps = 0
        self._slots = {}

    def begin(self) -> None:
        """Count one step; `dense` and `rows` that follow belong to it."""
        self._steps += 1

    @torch.no_grad()
    def dense(self, weights: MutableMapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
        """Change dense tensors in place."""
        for name, gradient in gradients.items():
            if self.rule.weight_decay:
                gradient = gradient + weights[name] * self.rule.weight_decay
            weights[name].add_(self.rule.change(gradient, self._of(name, weights[name]), self._steps))

    @torch.no_grad()
    def leading(self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
        """Change the first entries of stacked tensors in place, as many as the gradients have.

        Args:
            weights: (t, ...) tensors of t trainings side by side.
            gradients: (b, ...) of the first b of them; the others are done, and never come back.
        """
        for name, gradient in gradients.items():
            own = weights[name][: len(gradient)]
            if self.rule.weight_decay:
                gradient = gradient + own * self.rule.weight_decay
            slots = {key: value[: len(gradient)] for key, value in self._of(name, weights[name]).items()}
            own.add_(self.rule.change(gradient, slots, self._steps))

    @torch.no_grad()
    def rows(self, name: str, table: Tensor, ids: Tensor, gradient: Tensor) -> None:
        """Change rows of a table in place; every other row, and what is remembered of it, stays.

        Args:
            name: of the table.
            table: (rows, E).
            ids: (u,) int64, unique.
            gradient: (u, E) of those rows.
        """
        kept = self._of(name, table)
        slots = {key: value.index_select(0, ids) for key, value in kept.items()}
        table.index_add_(0, ids, self.rule.change(gradient, slots, self._steps))
        for key, value in slots.items():
            kept[key].index_copy_(0, ids, value)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that it remembers, by name."""
        named = {f"{slot}/{name}": value for name, slots in self._slots.items() for slot, value in slots.items()}
        return named | {_STEP: torch.tensor(self._steps)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        self.reset()
        for key, value in tensors.items():
            slot, slash, name = key.partition("/")
            if slash:
                self._slots.setdefault(name, {})[slot] = value.clone()
            else:
                self._steps = int(value)

    def _of(self, name: str, weights: Tensor) -> dict[str, Tensor]:
        """What is remembered of a tensor; zeros at first, which cost no memory until they are touched."""
        if name not in self._slots:
            self._slots[name] = {slot: torch.zeros(weights.shape, dtype=weights.dtype) for slot in self.rule.slots}
        return self._slots[name]
