"""A learned division: users, or items, about whom the backbone errs alike.

A user's signature is the mean over the training rows of (label - probability) * h, with h the last hidden layer: minus
the gradient of the row's loss by the output weights. Users whose signatures point the same way ask for the same change
of the network, which is what one adapter for them all could give. k-means on the signatures makes the clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from network.backbone import Backbone
from network.tower import PlainLayer
from training.batches import EVAL_ROWS, RowTensors

Floats = NDArray[np.float64]

_PRIOR_ROWS = 20.0  # of no error: who has few rows has a short signature
_PASSES = 30


@torch.no_grad()
def signatures(
    backbone: Backbone, rows: RowTensors, train: Tensor, entity: NDArray[Any], entities: int
) -> tuple[Floats, Floats]:
    """What each user or item asks the network to change.

    Args:
        backbone: frozen, in eval mode.
        rows: the data set.
        train: (t,) positions of the training rows.
        entity: (all rows,) the user or item of each row.
        entities: how many there are.

    Returns:
        The signatures (entities, d), zero for who has no row, and how many rows each has (entities,).
    """
    total = torch.zeros(entities, backbone.shape.tower[-1], dtype=torch.float64)
    layer = _LastHidden(backbone.plain, len(backbone.shape.tower) - 1)
    owner = torch.from_numpy(entity.astype(np.int64))
    for part in torch.split(train, EVAL_ROWS):
        probability = torch.sigmoid(backbone(rows.batch(part), layer))
        error = (rows.label[part] - probability).double()
        total.index_add_(0, owner[part], error.unsqueeze(1) * layer.hidden.double())
    count = np.bincount(entity[train.numpy()], minlength=entities).astype(np.float64)
    return total.numpy() / (count + _PRIOR_ROWS)[:, None], count


def cluster(points: Floats, weight: Floats, clusters: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """Put points into clusters by weighted k-means, started by k-means++.

    Args:
        points: (n, d); each column is scaled to unit variance first.
        weight: (n,) of each; points of weight 0 are in no cluster.
        clusters: how many, at most: there are no more than different points.
        draw: random source of the start.

    Returns:
        The cluster of each point (n,) from 0; -1 is none.

    Source: Lloyd (1982); Arthur & Vassilvitskii (2007) for the start.
    """
    number = np.full(len(points), -1, np.int64)
    known = np.flatnonzero(weight > 0.0)
    if not len(known):
        return number
    scaled, mass = _scaled(points[known], weight[known]), weight[known]
    centres = _started(scaled, mass, clusters, draw)
    nearest = _squares(scaled, centres).argmin(1)
    for _ in range(_PASSES):
        centres = _means(scaled, mass, nearest, centres)
        moved = _squares(scaled, centres).argmin(1)
        if np.array_equal(moved, nearest):
            break
        nearest = moved
    number[known] = nearest
    return number


def _scaled(points: Floats, weight: Floats) -> Floats:
    mean = np.average(points, axis=0, weights=weight)
    deviation = np.sqrt(np.average((points - mean) ** 2, axis=0, weights=weight))
    scaled: Floats = (points - mean) / np.where(deviation > 0.0, deviation, 1.0)
    return scaled


def _squares(points: Floats, centres: Floats) -> Floats:
    """Squared distances (n, k)."""
    product = points @ centres.T
    found: Floats = (points**2).sum(1)[:, None] - 2.0 * product + (centres**2).sum(1)
    return np.maximum(found, 0.0)


def _started(points: Floats, weight: Floats, clusters: int, draw: np.random.Generator) -> Floats:
    chosen = [int(draw.choice(len(points), p=weight / weight.sum()))]
    distance = _squares(points, points[chosen]).min(1)
    while len(chosen) < clusters:
        chance = weight * distance
        if chance.sum() <= 1e-12 * weight.sum():
            break
        chosen.append(int(draw.choice(len(points), p=chance / chance.sum())))
        distance = np.minimum(distance, _squares(points, points[chosen[-1:]])[:, 0])
    return points[chosen]


def _means(points: Floats, weight: Floats, nearest: NDArray[np.int64], before: Floats) -> Floats:
    """The centres of the clusters; an empty one stays where it was."""
    mass = np.bincount(nearest, weights=weight, minlength=len(before))
    sums = np.zeros_like(before)
    np.add.at(sums, nearest, weight[:, None] * points)
    found: Floats = np.where(mass[:, None] > 0.0, sums / np.maximum(mass, 1e-300)[:, None], before)
    return found


class _LastHidden:
    """The backbone's own layer, which remembers what the last hidden layer gave.

    Args:
        plain: the backbone's.
        last: number of the last hidden layer.
    """

    training = False
    dropout = 0.0

    def __init__(self, plain: PlainLayer, last: int) -> None:
        self._plain = plain
        self._last = last
        self.hidden = torch.empty(0)

    def __call__(self, level: int, x: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the module's output."""
        out: Tensor = self._plain(level, x, linear)
        if level == self._last:
            self.hidden = functional.relu(out)
        return out
