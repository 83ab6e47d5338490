"""The folded layer: what serving computes, with everything that is a domain's as an input.

Source: docs/architecture.md, "Folded module"; design.md 4. Exact in exact arithmetic: LoRA scales are folded into `up`,
the fusion's keys into `key` and `key_shift`, its query into the layer's own input, DomNorm into one scale and shift.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class FoldedModule:
    """One adaptable module's folded tensors; m divisions, R their ranks side by side, rf the fusion's rank.

    Args:
        down: (R, k).
        up: (d, R), the LoRA scales inside.
        shift: (m, d).
        query: (rf, k), WQ W0.
        query_shift: (rf,), WQ b0.
        key: (rf, R).
        key_shift: (m, rf).
        group: (m, R) of 0 and 1, which column belongs to which division.
        norm_scale: (d,), ones where the module has no norm.
        norm_shift: (d,), zeros where the module has no norm.
    """

    down: Tensor
    up: Tensor
    shift: Tensor
    query: Tensor
    query_shift: Tensor
    key: Tensor
    key_shift: Tensor
    group: Tensor
    norm_scale: Tensor
    norm_shift: Tensor


class FoldedLayer:
    """A `TowerLayer` made of folded modules.

    h = W0 x + b0 + (z * (w group)) up^T + w shift;  w = softmax((z * (q key)) group^T + q key_shift^T)

    Args:
        modules: one for each adaptable module, in the order of `NetworkShape.modules`.
    """

    training = False
    dropout = 0.0

    def __init__(self, modules: Sequence[FoldedModule]) -> None:
        self._modules = modules

    def __call__(self, level: int, x: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the module's output (n, d), normed where it has a norm."""
        f = self._modules[level]
        q = functional.linear(x, f.query, f.query_shift)
        z = functional.linear(x, f.down)
        scores = functional.linear(z * torch.matmul(q, f.key), f.group) + functional.linear(q, f.key_shift)
        w = torch.softmax(scores, dim=x.dim() - 1)
        low = functional.linear(z * torch.matmul(w, f.group), f.up)
        return (linear(x) + low + torch.matmul(w, f.shift)) * f.norm_scale + f.norm_shift
