"""Fixtures of the adapters_store tests."""

from pathlib import Path

import pytest

from tests.adapters_store.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A bundle of its own and everything to make artifacts for it."""
    return World(tmp_path)
