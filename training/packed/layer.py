"""The adapters of many domains between a backbone's linear maps: one batched product for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from network.inputs import NetworkShape
from network.norm import DomNorm
from network.tower import PlainLayer, normed
from training.packed.norm import Filled, StackedNorm


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

    Dropout is applied here, before the ReLU: its factors are not negative, so that the two may be exchanged. The
    property that asks the backbone for dropout is therefore zero.

    Args:
        rules: of the pack.
        tensors: the domains' tensors (t, ...) under an artifact's names.
        filled: the batches, in training; None normalises by running moments.
        masks: dropout's factors (t, n, d) of each hidden layer; empty without dropout.
        first: (t * n, d) what the first hidden linear map gives for the rows, where that is known.
    """

    dropout = 0.0

    def __init__(
        self,
        rules: Rules,
        tensors: Mapping[str, Tensor],
        filled: Filled | None = None,
        masks: Sequence[Tensor] = (),
        first: Tensor | None = None,
    ) -> None:
        self._rules = rules
        self._tensors = tensors
        self._filled = filled
        self._masks = masks
        self._first = first

    @property
    def training(self) -> bool:
        """Whether batch moments are in use."""
        return self._filled is not None

    def __call__(self, level: int, x: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the module's output (t * n, d), normed where it has a norm."""
        h = self._first if level == 0 and self._first is not None else linear(x)
        rules = self._rules
        h = self._adapted(level, x, h) if rules.ranks[level] else normed(rules.plain.norms, level, h)
        if level < len(self._masks):
            mask = self._masks[level]
            h = h * mask.view(h.shape)
        return h

    def _adapted(self, level: int, x: Tensor, h: Tensor) -> Tensor:
        """h + scale * (up (down x)) + shift, normed; `scale` goes into `up`, and `shift` is one column more of it."""
        module = self._rules.shape.modules[level]
        own = {key: self._tensors[f"{module.name}.{key}"] for key in ("down", "up", "scale", "shift")}
        t = len(own["down"])
        low = torch.bmm(x.reshape(t, -1, module.inputs), own["down"].transpose(1, 2))
        up = torch.cat([own["up"] * own["scale"].unsqueeze(2), own["shift"].unsqueeze(2)], dim=2)
        base = h.reshape(t, -1, module.outputs)
        out = torch.baddbmm(base, functional.pad(low, (0, 1), value=1.0), up.transpose(1, 2))
        if module.norm:
            out = self._normed(level, out)
        return out.view(h.shape)

    def _normed(self, level: int, h: Tensor) -> Tensor:
        name = self._rules.shape.modules[level].name
        weight, bias, mean, var = (self._tensors[f"{name}.norm.{key}"] for key in ("weight", "bias", "mean", "var"))
        like = self._rules.plain.norms[level]
        assert isinstance(like, DomNorm)
        norm = StackedNorm(weight, bias, mean, var, like.eps, like.momentum)
        if self._filled is None or self._rules.frozen_moments:
            return norm.by_running(h)
        return norm.by_batch(h, self._filled)
