"""One exported bundle for all tests of deltas."""

from __future__ import annotations

import pytest

from tests.training.deltas.worlds import DeltaWorld


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> DeltaWorld:
    return DeltaWorld(tmp_path_factory.mktemp("deltas"))
