"""Encoded rows shared by the tests of this folder; the world itself is the session's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.cluster.tasks import encoded
from training.dataset import EncodedDataset, Split


@pytest.fixture(scope="session")
def rows(small_world: Path) -> tuple[EncodedDataset, Split]:
    """9,000 rows of three domains, split."""
    return encoded(small_world)
