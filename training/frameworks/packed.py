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
from training.frameworks.optimizers import Optimizer
from training.frameworks.setting import Setting
from training.frameworks.state import State
from training.frameworks.structure import TABLE
from training.seeds import Stream

Tensors = dict[str, Tensor]


def packable(setting: Setting) -> bool:
    """Whether targets can stand side by side and stay as they are one after another.

    Batch moments see the rows that fill a batch up, an optimizer that is never reset goes from one target to the next,
    and rows of tables differ from target to target: these are trained one after another. So is a network that sorts
    its rows by domain (`Structure.batched`).
    """
    structure = setting.structure
    whole = not structure.moments() and structure.batched
    return whole and setting.config.inner.reset == "loop" and TABLE not in setting.specific_names


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
    names = setting.specific_names
    specifics = [state.specifics[domain].dense for domain in chosen]
    start = {name: torch.stack([state.shared[name] + dense[name] for dense in specifics]) for name in names}
    end = {name: value.clone() for name, value in start.items()}
    constant = {name: value for name, value in state.shared.items() if name not in end}
    optimizer = Optimizer(setting.config.inner.rule)
    setting.structure.train()
    with stream.ambient():
        for step in range(len(queues[0])):
            busy = [queue[step] for queue in queues if step < len(queue)]
            _step(setting, end, constant, busy, optimizer)
            setting.advance(sum(map(len, busy)))
    gamma = setting.config.regularization.gamma
    for name in names:
        change = end[name] - start[name]
        for place, dense in enumerate(specifics):
            dense[name].add_(change[place], alpha=gamma)


def _step(setting: Setting, end: Tensors, constant: Tensors, batches: Sequence[Tensor], optimizer: Optimizer) -> None:
    """Let the first targets, one for each batch, take their step together."""
    weights = {name: value[: len(batches)] for name, value in end.items()}
    inputs = _stacked(setting, batches)

    def loss(own: Tensors, rows: dict[str, Any]) -> Tensor:
        batch = Batch(rows["sparse"], rows["dense"], rows["multi_hot"])
        logits = setting.structure.under({**constant, **own}, batch, rows["domain"])
        each = functional.binary_cross_entropy_with_logits(logits, rows["label"], reduction="none")
        total: Tensor = (each * rows["weight"]).sum()
        return total

    gradients = vmap(grad(loss), randomness="same")(weights, inputs)
    optimizer.begin()
    optimizer.leading(end, gradients)


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
