"""Dropout, drawn four elements to a random word."""

from __future__ import annotations

import torch
from torch import Tensor

_LEVELS = 2**16


def dropout(x: Tensor, probability: float) -> Tensor:
    """Zero each element with this probability and scale the rest up to keep the mean.

    torch draws one random number an element, which was a fifth of a training step on a CPU; 16 bits an element are a
    quarter of the cost, and round the probability to a multiple of 1 / 65536.

    Args:
        x: any shape.
        probability: from 0 up to, but not including, 1.
    """
    dropped = round(probability * _LEVELS)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device).random_(-(2**63), None)
    levels = words.view(torch.int16)[: x.numel()].view(x.shape)
    kept = (levels >= dropped - _LEVELS // 2).to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped))
    return x * kept
