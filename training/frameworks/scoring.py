"""Scores of each domain by its own theta_S + theta_i, and the figure that epochs are selected by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.batches import logits_of
from training.frameworks.setting import Setting
from training.frameworks.state import State
from training.metrics import auc, probabilities

Floats = NDArray[np.float64]
_THRESHOLDS = 500
_EPSILON = 1e-7


def domain_logits(setting: Setting, state: State, domain: int, positions: Tensor, shared: bool = False) -> Floats:
    """Return the logits (n,) of rows by one domain's weights, in eval mode.

    Args:
        setting: network and rows.
        state: what was learned.
        domain: whose theta_i is added.
        positions: (n,) rows.
        shared: by theta_S alone.
    """
    structure = setting.structure
    weights = state.shared if shared else state.weights_of(domain)
    structure.load_moments(state.moments if shared else state.moments_of(domain))
    structure.eval()

    def score(part: Tensor) -> Tensor:
        batch = setting.labelled(part)
        return structure.under(weights, batch.inputs, batch.domain)

    return logits_of(positions, score)


def domain_aucs(setting: Setting, state: State, rows: Sequence[Tensor]) -> list[float | None]:
    """Return each domain's AUC on its own rows; None where it has one class only.

    Args:
        setting: network and rows.
        state: what was learned.
        rows: positions for each domain.
    """
    measure = auc_by_thresholds if setting.config.auc == "thresholds" else auc
    return [
        measure(setting.rows.label[part].numpy(), domain_logits(setting, state, domain, part)) if len(part) else None
        for domain, part in enumerate(rows)
    ]


def mean_auc(aucs: Sequence[float | None]) -> float | None:
    """Return the unweighted mean over the domains that have an AUC (methods.md 3); None where none has."""
    known = [value for value in aucs if value is not None]
    return sum(known) / len(known) if known else None


def auc_by_thresholds(label: NDArray[np.float32], logit: Floats, thresholds: int = _THRESHOLDS) -> float | None:
    """Return the AUC by trapezoids between evenly spaced thresholds of the probability.

    What the released code measures with; two scores between neighbouring thresholds count as equal. One threshold lies
    below 0 and one above 1. None where only one class occurs.
    """
    positive = label > 0.5
    if positive.all() or not positive.any():
        return None
    inner = np.arange(1, thresholds - 1) / (thresholds - 1)
    edges = np.concatenate(([-_EPSILON], inner, [1.0 + _EPSILON]))
    place = np.searchsorted(edges, probabilities(logit), side="left")  # how many thresholds lie below each score
    above = [
        np.bincount(place[rows], minlength=thresholds + 1)[::-1].cumsum()[::-1][1:] for rows in (positive, ~positive)
    ]
    true, false = above[0] / positive.sum(), above[1] / (~positive).sum()
    return float(np.sum((false[:-1] - false[1:]) * (true[:-1] + true[1:]) / 2))


def all_logits(setting: Setting, state: State, rows: Sequence[Tensor], shared: bool = False) -> Floats:
    """Return the logits of every domain's rows, one domain after another."""
    parts = [domain_logits(setting, state, domain, part, shared) for domain, part in enumerate(rows)]
    return np.concatenate(parts) if parts else np.empty(0)


def positions_of(rows: Sequence[Tensor]) -> NDArray[np.int64]:
    """Return the positions that `all_logits` scores, in its order."""
    joined: NDArray[np.int64] = torch.cat(list(rows)).numpy()
    return joined
