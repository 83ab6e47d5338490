"""A random backbone over random rows, and deltas whose own network drew the labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adapters_store.backbone import Backbone as Bundle
from adapters_store.backbone import read_bundle
from network.backbone import Backbone
from tests.training.test_export import make_trained
from training.artifacts_of import Source
from training.batches import RowTensors
from training.deltas.evaluation import ValidationAuc
from training.export import TrainedRun, export_bundle
from training.golden import Dtype, exact_backbone

DOMAIN = 1


class DeltaWorld:
    """One exported bundle, and what artifacts of its domains are made from."""

    def __init__(self, folder: Path) -> None:
        self.run: TrainedRun = make_trained()
        self.backbone: Backbone = self.run.backbone
        export_bundle(self.run, folder / "bundle", dense=True)
        self.folder = folder
        self.bundle: Bundle = read_bundle(folder / "bundle")
        self.theta_s = self.backbone.weights()
        self.fields = self.run.dataset.fields
        self.vocabulary = self.run.dataset.vocabulary

    def source(self, dtype: Dtype = "float32") -> Source:
        return Source(
            dataset=self.run.dataset,
            rows=self.run.rows,
            positions=self.run.positions,
            backbone=exact_backbone(self.backbone),
            fingerprint=self.bundle.fingerprint,
            dtype=dtype,
            created_at=None,
        )

    def delta(
        self, seed: int = 0, *, spread: float = 0.3, rank: int | None = None, tables: bool = False
    ) -> dict[str, Tensor]:
        """A delta of everything behind the lookup, and of id tables' rows; weights of a rank, if one is given."""
        g = torch.Generator().manual_seed(seed)
        found: dict[str, Tensor] = {}
        for name, own in self.theta_s.items():
            noise = spread * torch.randn(own.shape, generator=g) * own.std(correction=0).clamp(min=0.1)
            if name.endswith("norm.var"):
                noise = 0.3 * own * torch.rand(own.shape, generator=g)
            elif name == "output.weight":
                noise = 0.5 * own * torch.rand(own.shape, generator=g)  # keeps each unit's sign
            elif rank is not None and own.ndim == 2 and name.startswith("tower"):
                up, down = (torch.randn(size, generator=g) for size in ((own.shape[0], rank), (rank, own.shape[1])))
                noise = spread * up @ down / own.shape[1] ** 0.5
            if name.startswith("embedding."):
                if not tables or name not in ("embedding.user_id", "embedding.item_id"):
                    continue
                noise = noise * (torch.rand(len(own), generator=g) < 0.3)[:, None]
                noise[0] = 0.0
            found[name] = noise
        return found

    def whole(self, theta_i: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: own + theta_i[name] if name in theta_i else own for name, own in self.theta_s.items()}

    def validation(self, theta_i: Mapping[str, Tensor], seed: int = 0, noise: float = 0.5) -> ValidationAuc:
        """All rows, labelled by the delta's own network and some noise."""
        network = Backbone(self.backbone.shape).freeze()
        network.load_weights(self.whole(theta_i))
        everything = torch.arange(len(self.run.rows.label))
        logits = network(self.run.rows.batch(everything))
        noisy = logits + noise * torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed))
        rows = RowTensors(self.run.dataset)
        rows.label = (noisy > noisy.median()).float()
        return ValidationAuc(self.backbone.shape, rows, everything)


def logits_by(
    backbone: Backbone, weights: Mapping[str, Tensor], run: TrainedRun
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Logits of all rows by whole weights, in float64."""
    network = Backbone(backbone.shape).double().freeze()
    network.load_weights({name: value.double() for name, value in weights.items()})
    with torch.no_grad():
        return np.asarray(network(run.rows.batch(torch.arange(len(run.rows.label)))).numpy())
