"""Settings small enough that an epoch takes a fraction of a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from network.backbone import Backbone
from network.inputs import FieldShape, NetworkShape
from training.batches import RowTensors
from training.dataset import EncodedDataset, Split
from training.frameworks.config import MamdrConfig
from training.frameworks.domains import DomainRows
from training.frameworks.setting import Setting
from training.frameworks.structure import PlainStructure, Structure
from training.seeds import Stream

ROWS = 150
"""Training rows of each domain."""


@dataclass(frozen=True)
class SmallData:
    """An encoded data set and its split."""

    dataset: EncodedDataset
    rows: RowTensors
    split: Split

    def shape(self, norm: bool = False, **changes: Any) -> NetworkShape:
        """A small network over its fields."""
        fields = tuple(FieldShape(f.name, f.kind, f.vocabulary_size) for f in self.dataset.fields)
        keys: dict[str, Any] = {"width": 3, "tower": (6, 4), "dropout": 0.0, "embedding_std": 0.1, "norm": norm}
        return NetworkShape(fields, **{**keys, **changes})

    def domains(self, rows: int = ROWS) -> DomainRows:
        """Domains of uneven sizes: `rows` training rows for the first, fewer for each after it."""
        found = DomainRows.of(self.rows, self.split)
        train = tuple(part[: max(rows // (1 + place), 40)] for place, part in enumerate(found.train))
        return DomainRows(found.names, train, found.stop, found.gate, found.test)

    def structure(self, norm: bool = False, seed: int = 0, **changes: Any) -> PlainStructure:
        """A plain network with weights that depend on the seed alone."""
        with Stream(seed, ("structure",)).ambient():
            return PlainStructure(Backbone(self.shape(norm, **changes)))

    def setting(self, structure: Structure | None = None, rows: int = ROWS, **changes: Any) -> Setting:
        """A setting with batches of 64 rows and some keys replaced."""
        config = MamdrConfig.model_validate({"batch_rows": 64, "epochs": 2, **changes})
        return Setting(structure or self.structure(), self.rows, self.domains(rows), config, Stream(config.seed))


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 0.0) -> list[str]:
    """Name the tensors that differ by more than the tolerance, or stand on one side only."""
    wrong = sorted(one.keys() ^ other.keys())
    for name in one.keys() & other.keys():
        a, b = one[name], other[name]
        if a.shape != b.shape or (a.numel() and float((a.double() - b.double()).abs().max()) > tolerance):
            wrong.append(name)
    return wrong
