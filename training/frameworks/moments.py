"""The norms' running moments, measured anew for weights that no training pass has ended with (methods.md 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from network.norm import MIN_ROWS, DomNorm
from training.frameworks.inner import LabelledBatch
from training.frameworks.structure import Structure


@torch.no_grad()
def remeasure(
    structure: Structure, weights: Mapping[str, Tensor], moments: dict[str, Tensor], batches: Iterable[LabelledBatch]
) -> dict[str, Tensor]:
    """Return the moments of these weights: for each norm the mean over its batches of each batch's own, no dropout.

    A norm's batches are those parts of the batches that reach it: a norm of one domain sees that domain's rows alone.

    Args:
        structure: the network; its running moments are overwritten.
        weights: every parameter by name.
        moments: what stays of a norm that nowhere sees the rows to be measured (`network.norm.MIN_ROWS`).
        batches: of the rows to measure on.
    """
    structure.load_moments(moments)
    norms = list(structure.norms())
    usual = [norm.momentum for norm in norms]
    structure.eval()
    counting = _counting(norms)
    try:
        for norm in norms:
            norm.train()  # the norms alone, so that nothing is dropped
        for batch in batches:
            if len(batch) >= MIN_ROWS:
                structure.under(weights, batch.inputs, batch.domain)
    finally:
        for hook in counting:
            hook.remove()
        for norm, momentum in zip(norms, usual, strict=True):
            norm.momentum = momentum
        structure.eval()
    return structure.moments()


def _counting(norms: Sequence[DomNorm]) -> list[RemovableHandle]:
    """Let each norm weigh its n-th batch by 1 / n, so that its running moments are a mean; hooks to be removed."""
    taken = {id(norm): 0 for norm in norms}

    def count(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(norm, DomNorm) and len(inputs[0]) >= MIN_ROWS:
            taken[id(norm)] += 1
            norm.momentum = 1 / taken[id(norm)]

    return [norm.register_forward_pre_hook(count) for norm in norms]
