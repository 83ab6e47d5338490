"""Domain Regularization of many targets side by side: one batched product in the place of one for each target.

Every target keeps weights, batches and optimizer state of its own; they only stand in one tensor (targets, ...). The
result is that of training one after another, but for the order of sums and for dropout, whose mask all targets of a
step share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional

from network.inputs import Batch
from training.frameworks.local_rows import LocalRows, localizable
from training.frameworks.optimizers import Optimizer
from training.frameworks.setting import Setting
from training.frameworks.state import State
from training.frameworks.structure import TABLE
from training.seeds import Stream

Tensors = dict[str, Tensor]


def packable(setting: Setting) -> bool:
    """Whether targets can stand side by side and stay as they are one after another.

    Batch moments see the rows that fill a batch up, an optimizer that is never reset goes from one target to the next,
    and rows of tables are numbered anew, which lists are not: these are trained one after another. So is a network that
    sorts its rows by domain (`Structure.batched`).
    """
    structure = setting.structure
    whole = not structure.moments() and structure.batched
    rows = TABLE not in setting.specific_names or localizable(structure)
    return whole and rows and setting.config.inner.reset == "loop"


def packed_round(
    setting: Setting, state: State, targets: Sequence[int], visits: Sequence[Sequence[Tensor]], stream: Stream
) -> None:
    """Take one round of Domain Regularization for several targets.

    Args:
        setting: what it works on.
        state: its theta_i of the targets are changed.
        targets: t domains.
        visits: for each target the positions of its batches, in order.
        stream: of the dropout that they share.
    """
    order = sorted(range(len(targets)), key=lambda place: -len(visits[place]))  # who is still busy stands first
    chosen, queues = [targets[place] for place in order], [visits[place] for place in order]
    together = _Together(setting, state, chosen, queues)
    setting.structure.train()
    with stream.ambient():
        for step in range(len(queues[0])):
            busy = [queue[step] for queue in queues if step < len(queue)]
            together.step(busy)
            setting.advance(sum(map(len, busy)))
    together.absorb(setting.config.regularization.gamma)


class _Together:
    """The weights of several targets in one round, stacked.

    Args:
        setting: what it works on.
        state: theta_S, and theta_i of the targets.
        targets: t domains, those with most batches first.
        queues: for each target the positions of its batches.
    """

    def __init__(
        self, setting: Setting, state: State, targets: Sequence[int], queues: Sequence[Sequence[Tensor]]
    ) -> None:
        names = [name for name in setting.specific_names if name != TABLE]
        self._setting = setting
        self._specifics = [state.specifics[domain] for domain in targets]
        self._start = {n: torch.stack([state.shared[n] + own.dense[n] for own in self._specifics]) for n in names}
        self._end = {name: value.clone() for name, value in self._start.items()}
        self._constant = {name: value for name, value in state.shared.items() if name not in self._end}
        self._rows: LocalRows | None = None
        if TABLE in setting.specific_names:
            self._rows = LocalRows(setting, self._constant.pop(TABLE), self._specifics, queues)
        self._optimizer = Optimizer(setting.config.inner.rule)

    def step(self, batches: Sequence[Tensor]) -> None:
        """Let the first targets, one for each batch, take their step together."""
        weights = {name: value[: len(batches)] for name, value in self._end.items()}
        inputs = _stacked(self._setting, batches)
        read = torch.empty(0, dtype=torch.int64)
        if self._rows is not None:
            weights[TABLE] = self._rows.end[: len(batches)]
            inputs["sparse"], read = self._rows.renumbered(inputs["sparse"])
        gradients = vmap(grad(self._loss), randomness="same")(weights, inputs)
        self._optimizer.begin()
        if self._rows is not None:
            self._rows.step(self._optimizer, gradients.pop(TABLE), read)
        self._optimizer.leading(self._end, gradients)

    def absorb(self, gamma: float) -> None:
        """Move every theta_i: += gamma (end - start)."""
        for name, end in self._end.items():
            change = end - self._start[name]
            for place, own in enumerate(self._specifics):
                own.dense[name].add_(change[place], alpha=gamma)
        if self._rows is not None:
            self._rows.absorb(gamma)

    def _loss(self, own: Tensors, rows: dict[str, Any]) -> Tensor:
        """One target's loss; weights of its rows sum to one."""
        batch = Batch(rows["sparse"], rows["dense"], rows["multi_hot"])
        logits = self._setting.structure.under({**self._constant, **own}, batch, rows["domain"])
        each = functional.binary_cross_entropy_with_logits(logits, rows["label"], reduction="none")
        total: Tensor = (each * rows["weight"]).sum()
        return total


def _stacked(setting: Setting, batches: Sequence[Tensor]) -> dict[str, Any]:
    """The batches as tensors (t, n, ...), filled up with rows of no weight; weights of a batch sum to one."""
    n = max(map(len, batches))
    positions = torch.stack([functional.pad(rows, (0, n - len(rows)), value=int(rows[0])) for rows in batches])
    weight = torch.stack([(torch.arange(n) < len(rows)).float() / len(rows) for rows in batches])
    flat = setting.labelled(positions.flatten())
    shape = positions.shape
    return {
        "sparse": torch.unflatten(flat.inputs.sparse, 0, shape),
        "dense": torch.unflatten(flat.inputs.dense, 0, shape),
        "multi_hot": {name: torch.unflatten(values, 0, shape) for name, values in flat.inputs.multi_hot.items()},
        "domain": torch.unflatten(flat.domain, 0, shape),
        "label": torch.unflatten(flat.label, 0, shape),
        "weight": weight,
    }
