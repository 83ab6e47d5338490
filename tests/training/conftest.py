"""A world small enough to train on in seconds, and one finished run on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.small import SETTINGS, small_config
from training.pipeline import train_all
from training.progress import SilentMeter
from training.sources.synthetic import SyntheticWorld, synthetic
from training.stages import Run


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Bits are compared: stages run by hand take as many threads as the small configuration says."""
    torch.set_num_threads(SETTINGS["threads"])


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data: 9,000 rows, three themes, two segments of users."""
    folder = tmp_path_factory.mktemp("small-world")
    synthetic(SyntheticWorld(seed=0, rows=9_000, users=150, items=60, domains=3, segments=2)).write(folder)
    return folder


@pytest.fixture(scope="session")
def finished(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted `train all`; nobody may change it."""
    return train_all(small_config(small_world), tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="session")
def opened(small_world: Path, finished: Path) -> Run:
    """That run with its stages at hand; its state is finished, so nothing is trained again."""
    return Run(small_config(small_world), finished, SilentMeter())
