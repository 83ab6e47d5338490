"""A frozen linear map and the LoRA beside it, as one product with few passes over a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def adapted(linear: nn.Linear, x: Tensor, down: Tensor, up: Tensor, shift: Tensor, into: Into | None = None) -> Tensor:
    """Return W0 x + b0 + up (down x) + shift, (n, d), of a frozen linear map.

    Most of a step of training an adapter is spent on moving activations, not on multiplying them. Merged into W0
    (d k r multiplications, whatever the batch is) the LoRA costs no pass over (n, d) of its own.

    Args:
        linear: W0 (d, k) and b0 (d,), constant.
        x: (n, k).
        down: (r, k).
        up: (d, r), the scale in it.
        shift: (d,).
        into: where the gradient of a constant x goes; None where x has its own.
    """
    rows, columns = (None, None) if into is None else (into.rows, into.columns)
    found: Tensor = _Adapted.apply(x, rows, columns, linear.weight, linear.bias, down, up, shift)  # type: ignore[no-untyped-call]
    return found


class Into:
    """Vectors that are part of a constant x, and learn from its gradient.

    Args:
        rows: (n, m) what stands there.
        columns: (m,) where in x.
    """

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        self.rows = rows
        self.columns = columns


class _Adapted(torch.autograd.Function):
    """Gradients by the product rule; those of x go through W0 + up down at once."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rows: Tensor | None,
        columns: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        down: Tensor,
        up: Tensor,
        shift: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, columns, weight, down, up)
        return functional.linear(x, torch.addmm(weight, up, down), bias + shift)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dz,) = gradients
        x, columns, weight, down, up = ctx.saved_tensors
        low = dz @ up
        dx = rows = None
        if ctx.needs_input_grad[0]:
            dx = dz @ torch.addmm(weight, up, down)
        if ctx.needs_input_grad[1]:
            rows = dz @ torch.addmm(weight[:, columns], up, down[:, columns])
        return dx, rows, None, None, None, low.T @ x, dz.T @ functional.linear(x, down), dz.sum(0)
