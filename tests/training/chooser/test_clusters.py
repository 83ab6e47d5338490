"""Learned clusterings."""

from __future__ import annotations

import numpy as np
import torch

from network.backbone import Backbone
from training.chooser.clusters import cluster, signatures
from training.stages import Run


def test_clouds_are_found() -> None:
    """Law: points of three distant clouds get three clusters, one a cloud; points without rows get none."""
    draw = np.random.default_rng(0)
    cloud = draw.integers(0, 3, 300)
    points = np.array([[0.0, 9.0], [9.0, 0.0], [-9.0, -9.0]])[cloud] + draw.normal(size=(300, 2))
    weight = np.where(np.arange(300) % 10 == 0, 0.0, draw.integers(1, 9, 300))
    found = cluster(points, weight, 3, draw)
    assert (found[weight == 0.0] == -1).all()
    pairs = {(one, other) for one, other in zip(cloud[weight > 0].tolist(), found[weight > 0].tolist(), strict=True)}
    assert len(pairs) == 3


def test_equal_points_make_one_cluster() -> None:
    """Law: there are no more clusters than different points."""
    found = cluster(np.ones((20, 4)), np.ones(20), 5, np.random.default_rng(0))
    assert set(found.tolist()) == {0}
    assert cluster(np.ones((3, 2)), np.zeros(3), 2, np.random.default_rng(0)).tolist() == [-1, -1, -1]


def test_signature_is_the_gradient_of_the_output(opened: Run) -> None:
    """Law: a user's signature times (rows + 20) is minus the gradient of that user's loss by the output weights."""
    torch.manual_seed(0)
    backbone = Backbone(opened.shape).freeze()
    user, train = opened.dataset.user, opened.positions.train
    found, rows = signatures(backbone, opened.rows, train, user, int(user.max()) + 1)
    one = int(np.argmax(rows))
    mine = train[torch.from_numpy(user)[train] == one]
    backbone.output.weight.requires_grad_(True)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        backbone(opened.rows.batch(mine)), opened.rows.label[mine], reduction="sum"
    )
    (gradient,) = torch.autograd.grad(loss, backbone.output.weight)
    np.testing.assert_allclose(found[one] * (len(mine) + 20.0), -gradient[0].numpy(), rtol=1e-4, atol=1e-5)
