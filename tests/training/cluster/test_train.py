"""`espalier train mamdr --ray` from the prepared folder to the run folder, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.cluster.tasks import SETTINGS, different
from tests.training.cluster.test_driver import Killed, MortalEngine
from tests.training.small import contents
from tests.training.test_given import with_pictures
from training.cluster.config import ClusterConfig
from training.cluster.engine import DirectEngine
from training.cluster.fit import fit_on_cluster
from training.cluster.train import task_of, train_on
from training.errors import ConfigError, RunExists, StateMismatch
from training.frameworks.config import MamdrConfig
from training.frameworks.run import MamdrRun, train_mamdr
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


def test_fields_that_bring_their_vectors_are_trained_on_workers(small_world: Path, tmp_path: Path) -> None:
    """Law: workers have the given vectors too: one worker's bits are the single process's."""
    with_pictures(small_world).write(tmp_path / "data")
    config = config_of(tmp_path / "data", regularization={"others": 1, "packed": 1})
    alone = MamdrRun(config, tmp_path / "alone", SilentMeter()).fitted()
    run = MamdrRun(config, tmp_path / "spread", SilentMeter())
    spread = fit_on_cluster(task_of(run), ClusterConfig(workers=1), DirectEngine(), run.out, run.meter)
    assert different(alone.state, spread.fitted.state) == []


def test_a_domain_joins_a_run_that_was_spread(small_world: Path, tmp_path: Path) -> None:
    """Law: a finished spread run is taken as one of one process; its bundle keeps its bytes, the domain gets a file."""
    config = config_of(small_world, left_out=["theme-02"], regularization={"others": 1})
    train_on(DirectEngine(), config, tmp_path / "run", ClusterConfig(workers=2), resume=False, meter=SilentMeter())
    before = contents(tmp_path / "run")
    heard = Heard()
    train_mamdr(config, tmp_path / "run", domain="theme-02", meter=heard)
    after = contents(tmp_path / "run")
    assert after.pop("adapters/theme-02.safetensors")
    assert after == before
    assert not any("mamdr epoch" in line for line in heard.lines)


def test_a_cluster_that_was_stopped_is_not_gone_on_with_alone(small_world: Path, tmp_path: Path) -> None:
    """Law: what a cluster has trained is not trained again by one process unasked; the message names the option."""
    config = config_of(small_world, framework="dn")
    with pytest.raises(Killed):
        train_on(MortalEngine([], 5), config, tmp_path, ClusterConfig(), resume=False, meter=SilentMeter())
    with pytest.raises(StateMismatch, match="give --ray"):
        train_mamdr(config, tmp_path, resume=True)


def test_a_training_of_one_process_is_not_spread_afterwards(small_world: Path, tmp_path: Path) -> None:
    """Law: what one process has trained is not trained again on a cluster unasked; its state stays."""
    config = config_of(small_world, framework="dn")
    MamdrRun(config, tmp_path, SilentMeter()).fitted()
    before = (tmp_path / "state" / "mamdr.safetensors").read_bytes()
    with pytest.raises(StateMismatch, match="leave --ray out"):
        train_on(DirectEngine(), config, tmp_path, ClusterConfig(), resume=True, meter=SilentMeter())
    assert (tmp_path / "state" / "mamdr.safetensors").read_bytes() == before


def test_a_network_of_several_phases_is_refused(small_world: Path, tmp_path: Path) -> None:
    """Law: what one process trains in phases is not trained in one go by workers."""
    config = config_of(small_world, structure="plate", settings={"user_fields": ["user_id"]})
    run = MamdrRun(config, tmp_path, SilentMeter())
    with pytest.raises(ConfigError, match="phases"):
        fit_on_cluster(task_of(run), ClusterConfig(workers=1), DirectEngine(), run.out, run.meter)
