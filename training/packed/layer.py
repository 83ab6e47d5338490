"""The adapters of many domains between a backbone's linear maps: one batched product for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from network.inputs import NetworkShape
from network.norm import DomNorm
from network.tower import PlainLayer, normed
from training.packed.norm import Dropped, Filled, StackedNorm
from training.packed.stack import Tensors


@dataclass(frozen=True)
class Rules:
    """What is the same for all domains of a pack.

    Args:
        shape: the backbone's.
        ranks: r of each adaptable module; 0 adapts it not.
        plain: the backbone's own layer, whose norms serve the modules that are not adapted.
        frozen_moments: always normalise by running moments.
    """

    shape: NetworkShape
    ranks: Sequence[int]
    plain: PlainLayer
    frozen_moments: bool


class PackedLayer:
    """A `TowerLayer` whose rows are (t * n): n of each of t domains in turn. Source: MultiLoRA, Eq. 8 and 9.

    Interactions call it as they call any layer. The tower is `hidden`, layer by layer: norm, ReLU and dropout are one
    there, which the backbone's own forward pass would take apart.

    Args:
        rules: of the pack.
        tensors: the domains' tensors (t, ...) under an artifact's names.
        filled: the batches, in training; None normalises by running moments.
        drops: dropout of each hidden layer; empty without dropout.
    """

    dropout = 0.0

    def __init__(
        self, rules: Rules, tensors: Tensors, filled: Filled | None = None, drops: Sequence[Dropped] = ()
    ) -> None:
        self._rules = rules
        self._tensors = tensors
        self._filled = filled
        self._drops = drops

    @property
    def training(self) -> bool:
        """Whether batch moments are in use."""
        return self._filled is not None

    def __call__(self, level: int, x: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the output (t * n, d) of a module of the interaction; none of them has a norm."""
        return self._adapted(level, x, linear(x))

    def hidden(self, level: int, x: Tensor, h: Tensor) -> Tensor:
        """Return a hidden layer's output (t * n, d): dropout(relu(norm(W0 x + b0 + LoRA x))).

        Args:
            level: its number.
            x: (t * n, k) its input.
            h: (t * n, d) W0 x + b0.
        """
        rules = self._rules
        h = self._adapted(level, x, h)
        if not rules.ranks[level]:
            h = functional.relu(normed(rules.plain.norms, level, h))
        elif rules.shape.modules[level].norm:
            return self._activated(level, h)
        else:
            h = functional.relu(h)
        if not self._drops:
            return h
        drop = self._drops[level]
        return drop.of(h.view(drop.kept.shape)).view(h.shape)

    def _adapted(self, level: int, x: Tensor, h: Tensor) -> Tensor:
        """h + scale * (up (down x)) + shift; `scale` goes into `up`, and `shift` is one column more of it."""
        if not self._rules.ranks[level]:
            return h
        module = self._rules.shape.modules[level]
        own = {key: self._tensors[f"{module.name}.{key}"] for key in ("down", "up", "scale", "shift")}
        t = len(own["down"])
        low = torch.bmm(x.reshape(t, -1, module.inputs), own["down"].transpose(1, 2))
        up = torch.cat([own["up"] * own["scale"].unsqueeze(2), own["shift"].unsqueeze(2)], dim=2)
        base = h.reshape(t, -1, module.outputs)
        return torch.baddbmm(base, functional.pad(low, (0, 1), value=1.0), up.transpose(1, 2)).view(h.shape)

    def _activated(self, level: int, h: Tensor) -> Tensor:
        rules = self._rules
        name, like = rules.shape.modules[level].name, rules.plain.norms[level]
        assert isinstance(like, DomNorm)
        weight, bias, mean, var = (self._tensors[f"{name}.norm.{key}"] for key in ("weight", "bias", "mean", "var"))
        norm = StackedNorm(weight, bias, mean, var, like.eps, like.momentum)
        rows = h.view(len(weight), -1, h.shape[1])
        if self._filled is None:
            return functional.relu(norm.by_running(rows)).view(h.shape)
        drop = self._drops[level] if self._drops else None
        return norm.hidden(rows, self._filled, rules.frozen_moments, drop).view(h.shape)
