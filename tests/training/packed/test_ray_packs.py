"""Packs as tasks of processes: the files of one process, whoever trained them and whoever died over it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.killing import KillingEngine
from tests.training.packed.losing import LosingEngine
from tests.training.small import small_config
from training.checkpoint import Saved, StateFolder
from training.cluster.engine import DirectEngine, Engine
from training.cluster.errors import ClusterLost
from training.config import TrainingConfig
from training.errors import ConfigError, RunExists
from training.packed.ray_packs import PackCluster, train_packs_on
from training.pipeline import train
from training.progress import SilentMeter

PACKED: dict[str, Any] = {"domains": 2}


@pytest.fixture
def config(small_world: Path) -> TrainingConfig:
    return small_config(small_world, packed=PACKED)


def run_folder(finished: Path, folder: Path) -> Path:
    """A run folder with a backbone, and no more."""
    (folder / "state").mkdir(parents=True)
    shutil.copy(finished / "state" / "pretrain.safetensors", folder / "state")
    return folder


def on(engine: Engine, config: TrainingConfig, out: Path, resume: bool = False, **cluster: Any) -> Path:
    settings = PackCluster.model_validate(cluster)
    return train_packs_on(engine, "adapters", config, out, settings, resume=resume, meter=SilentMeter())


def learned(out: Path) -> dict[str, Saved]:
    """All of stage 2's state, by name."""
    state = StateFolder(out / "state")
    files = sorted((out / "state" / "adapters").rglob("*.safetensors"))
    names = [str(path.relative_to(out / "state").with_suffix("")) for path in files]
    found = {name: state.read(name) for name in names}
    return {name: saved for name, saved in found.items() if saved is not None}


def assert_the_same(mine: Path, other: Path) -> None:
    """Bit for bit, how long an epoch took aside."""
    ours, theirs = learned(mine), learned(other)
    assert ours.keys() == theirs.keys()
    for name, saved in ours.items():
        assert saved.tensors.keys() == theirs[name].tensors.keys()
        assert all(torch.equal(value, theirs[name].tensors[key]) for key, value in saved.tensors.items())
        assert untimed(saved.record) == untimed(theirs[name].record)


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: untimed(one) for key, one in value.items() if key != "seconds"}
    return [untimed(one) for one in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def in_one_process(small_world: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packs as one process trains them."""
    out = run_folder(finished, tmp_path_factory.mktemp("one") / "run")
    return train("adapters", small_config(small_world, packed=PACKED), out)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_leave_what_one_process_leaves(
    config: TrainingConfig, finished: Path, in_one_process: Path, tmp_path: Path, workers: int
) -> None:
    """Law: any number of workers gives the state files of one process, bit for bit."""
    out = on(DirectEngine(), config, run_folder(finished, tmp_path / "run"), workers=workers)
    assert_the_same(out, in_one_process)


def test_domains_too_large_for_a_pack_are_tasks_of_their_own(small_world: Path, finished: Path, tmp_path: Path) -> None:
    """Law: a domain that no pack holds is trained by a worker as it is alone, its best weights kept."""
    config = small_config(small_world, packed={"memory_mib": 1})
    engine = LosingEngine(())
    out = on(engine, config, run_folder(finished, tmp_path / "tasks"))
    assert any(not name.startswith("packed/") for name in engine.names)
    assert_the_same(out, train("adapters", config, run_folder(finished, tmp_path / "one")))


def test_packs_of_a_lost_worker_are_run_again(
    config: TrainingConfig, finished: Path, in_one_process: Path, tmp_path: Path
) -> None:
    """Law: what a dead worker had begun is trained again and what others finished is not; the result is the same."""
    engine = LosingEngine({1, 4})
    out = on(engine, config, run_folder(finished, tmp_path / "run"))
    assert_the_same(out, in_one_process)
    first = engine.names[0]
    assert len(engine.names) == len(set(engine.names)) + 2
    assert engine.names.count(first) >= 2
    assert engine.stopped


def test_workers_that_die_again_and_again_end_the_training(
    config: TrainingConfig, finished: Path, in_one_process: Path, tmp_path: Path
) -> None:
    """Law: with no pack finished between losses training stops after the restarts; finished packs stay, and resume."""
    out = run_folder(finished, tmp_path / "run")
    engine = LosingEngine(range(2, 100))
    with pytest.raises(ClusterLost, match=r"memory_mib.*--resume"):
        on(engine, config, out, workers=1, restarts=1)
    assert len(engine.names) == 1 + 1 + 2  # one is finished, then the next is lost, and lost twice more
    assert engine.stopped
    assert len(learned(out)) == 1
    with pytest.raises(RunExists):
        on(DirectEngine(), config, out)
    again = LosingEngine(())
    on(again, config, out, resume=True)
    assert len(again.names) == len(learned(in_one_process)) - 1
    assert_the_same(out, in_one_process)


def test_tasks_without_packs_are_refused(small_world: Path, finished: Path, tmp_path: Path) -> None:
    """Law: without `packed` there is nothing to deal out, and the message says what to set."""
    with pytest.raises(ConfigError, match="set `packed`"):
        on(DirectEngine(), small_config(small_world), run_folder(finished, tmp_path / "run"))


def test_rows_on_the_disk_are_not_sent_to_workers(config: TrainingConfig, finished: Path, tmp_path: Path) -> None:
    """Law: a worker holds what it is sent in memory, so `rows: disk` is refused rather than not kept."""
    with pytest.raises(ConfigError, match="rows: memory"):
        on(DirectEngine(), config.model_copy(update={"rows": "disk"}), run_folder(finished, tmp_path / "run"))


@pytest.mark.timeout(300)
def test_killed_worker_on_ray_changes_nothing(
    config: TrainingConfig, finished: Path, in_one_process: Path, tmp_path: Path
) -> None:
    """Law: SIGKILL of a worker's process over a pack: the run ends with the bits of one that was left alone."""
    engine = KillingEngine({2: 0}, cpus=2)
    out = on(engine, config, run_folder(finished, tmp_path / "run"))
    assert len(engine.killed) == 1
    assert_the_same(out, in_one_process)
