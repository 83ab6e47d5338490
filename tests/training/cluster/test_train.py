"""`espalier train mamdr --ray` from the prepared folder to the run folder, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.cluster.tasks import SETTINGS, different
from training.cluster.config import ClusterConfig
from training.cluster.engine import DirectEngine
from training.cluster.fit import fit_on_cluster
from training.cluster.train import task_of, train_on
from training.errors import RunExists
from training.frameworks.config import MamdrConfig
from training.frameworks.run import MamdrRun
from training.progress import SilentMeter


class Heard(SilentMeter):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def config_of(data: Path, **changes: Any) -> MamdrConfig:
    """The small settings over a prepared folder."""
    return MamdrConfig.model_validate({**SETTINGS, "epochs": 1, "bootstrap_draws": 100, "data": data, **changes})


@pytest.mark.timeout(300)
def test_a_spread_run_leaves_a_whole_run_folder(small_world: Path, tmp_path: Path) -> None:
    """Law: after the epochs comes all that follows in one process; traffic and staleness are said."""
    config = config_of(small_world, framework="dn")
    heard = Heard()
    train_on(DirectEngine(), config, tmp_path, ClusterConfig(workers=2), resume=False, meter=heard)
    assert (tmp_path / "bundle" / "manifest.json").exists()
    assert (tmp_path / "report.md").exists()
    assert any("without caches" in line for line in heard.lines)
    assert any("bound: 0" in line for line in heard.lines)


def test_a_run_is_the_same_task_as_in_one_process(small_world: Path, tmp_path: Path) -> None:
    """Law: with one worker, a run's LoRAs are those that the run trains by itself, bit for bit."""
    config = config_of(small_world, specific="lora", lora={"ranks": [2, 2]}, regularization={"others": 1, "packed": 1})
    alone = MamdrRun(config, tmp_path / "alone", SilentMeter()).fitted()
    run = MamdrRun(config, tmp_path / "spread", SilentMeter())
    spread = fit_on_cluster(task_of(run), ClusterConfig(workers=1), DirectEngine(), run.out, run.meter)
    assert different(alone.state, spread.fitted.state) == []


def test_a_used_folder_needs_resume(small_world: Path, tmp_path: Path) -> None:
    """Law: a folder that holds something is refused, unless a run in it is to be resumed."""
    (tmp_path / "report.md").write_text("of a run")
    with pytest.raises(RunExists, match="--resume"):
        train_on(DirectEngine(), config_of(small_world), tmp_path, ClusterConfig(), resume=False, meter=SilentMeter())


def test_a_network_of_another_structure_is_made_for_workers(small_world: Path, tmp_path: Path) -> None:
    """Law: a worker makes the network that the run has, of a smaller vocabulary: the same dense parameters."""
    run = MamdrRun(config_of(small_world, structure="shared_bottom"), tmp_path, SilentMeter())
    task = task_of(run)
    made = task.structure_of(run.setting.structure.embeddings.shape)
    shapes = {name: value.shape for name, value in made.named_parameters()}
    assert shapes == {name: value.shape for name, value in run.setting.structure.named_parameters()}
