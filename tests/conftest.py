"""Fixtures that several rooms' tests share. Made once a session: exporting a graph takes seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from benchmarks.forge import Run
from tests.factory import Sizes, make_run


def pytest_configure() -> None:
    """Let Triton's kernels run in its interpreter: that is decided when Triton is imported, and peft imports it too."""
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """A worker that trains takes denormal numbers as zero for good, and tests call workers: the next test has them."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def random_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run folder of random artifacts: themes (natural), segments of users (auxiliary)."""
    return make_run(tmp_path_factory.mktemp("random") / "run")


@pytest.fixture(scope="session")
def three_way_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same with a third division, of items: m = 3, and a request splits into segments."""
    return make_run(tmp_path_factory.mktemp("three-way") / "run", seed=1, sizes=Sizes(by_item=True))


@pytest.fixture(scope="session")
def dense_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose bundle can score deltas: it carries `scoring_dense.onnx`."""
    return make_run(tmp_path_factory.mktemp("dense") / "run", seed=2, sizes=Sizes(by_item=True, dense=True))
