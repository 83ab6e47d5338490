"""Plain loops over a module's own parameters, with torch's own optimizers, to hold the frameworks to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional

from training.frameworks.setting import Setting
from training.frameworks.structure import Structure

Step = Callable[[list[Tensor]], torch.optim.Optimizer]


def module_with(structure: Structure, theta: dict[str, Tensor]) -> Structure:
    """A copy of the network that has these weights as its own."""
    module = copy.deepcopy(structure)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(theta[name])
    return module


def loss_at(module: Structure, setting: Setting, positions: Tensor) -> Tensor:
    """Mean loss of some rows, by the module's own weights."""
    domain = setting.rows.domains[positions, 0]
    return functional.binary_cross_entropy_with_logits(
        module(setting.rows.batch(positions), domain), setting.rows.label[positions]
    )


def plain_loop(module: Structure, setting: Setting, visits: Iterable[Tensor], step: Step) -> dict[str, Tensor]:
    """Train a module on batches with one of torch's optimizers over all its parameters; return them."""
    optimizer = step(list(module.parameters()))
    module.train()
    for positions in visits:
        optimizer.zero_grad()
        loss_at(module, setting, positions).backward()
        optimizer.step()
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def gradient_at(module: Structure, setting: Setting, positions: Tensor) -> dict[str, Tensor]:
    """Gradient of the mean loss of some rows by name."""
    found = torch.autograd.grad(loss_at(module, setting, positions), list(module.parameters()))
    return dict(zip((name for name, _ in module.named_parameters()), found, strict=True))
