"""The small world, encoded once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.frameworks.settings import SmallData
from training.batches import RowTensors
from training.dataset import encode, split_rows
from training.prepared import PreparedDataset


@pytest.fixture(scope="session")
def small_data(small_world: Path) -> SmallData:
    """9,000 rows of three themes, encoded."""
    prepared = PreparedDataset.load(small_world)
    split = split_rows(len(prepared.interactions), 0)
    dataset = encode(prepared, split.train, 3)
    return SmallData(dataset, RowTensors(dataset), split)
