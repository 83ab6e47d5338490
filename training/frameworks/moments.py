"""The norms' running moments, measured anew for weights that no training pass has ended with (methods.md 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from network.norm import MIN_ROWS
from training.frameworks.inner import LabelledBatch
from training.frameworks.structure import Structure


@torch.no_grad()
def remeasure(
    structure: Structure, weights: Mapping[str, Tensor], moments: dict[str, Tensor], batches: Iterable[LabelledBatch]
) -> dict[str, Tensor]:
    """Return the moments of these weights: the mean over batches of each batch's own, without dropout.

    Args:
        structure: the network; its running moments are overwritten.
        weights: every parameter by name.
        moments: what stays where no batch has the rows to be measured (`network.norm.MIN_ROWS`).
        batches: of the rows to measure on.
    """
    structure.load_moments(moments)
    norms = list(structure.norms())
    usual = [norm.momentum for norm in norms]
    structure.eval()
    try:
        for norm in norms:
            norm.train()  # the norms alone, so that nothing is dropped
        taken = 0
        for batch in batches:
            if len(batch) < MIN_ROWS:
                continue
            taken += 1
            for norm in norms:
                norm.momentum = 1 / taken
            structure.under(weights, batch.inputs, batch.domain)
    finally:
        for norm, momentum in zip(norms, usual, strict=True):
            norm.momentum = momentum
        structure.eval()
    return structure.moments()
