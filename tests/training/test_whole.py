"""The baselines of a run: the same rows as its backbone, each row by its own domain's network, and all of it once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.training.packed.losing import LosingEngine
from tests.training.small import small_config
from training.checkpoint import Memory, StateFolder
from training.cluster.engine import DirectEngine
from training.config import TrainingConfig
from training.errors import ConfigError, RunExists, StageMissing, StateMismatch
from training.packed.ray_packs import PackCluster, train_whole_on
from training.predictions import read_predictions
from training.progress import SilentMeter
from training.stages import Run
from training.whole import WHOLE_KINDS, WholeKind, train_whole, whole_trainer

ONCE = {"lr": 5e-3, "batch_rows": 512, "epochs": 1, "dropout": 0.1}


def config_of(data: Path, **whole: float) -> TrainingConfig:
    return small_config(data, whole={**ONCE, **whole})


@pytest.fixture(scope="module")
def trained(small_world: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with both baselines; nobody may change it."""
    run = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(finished, run)
    train_whole(WHOLE_KINDS, config_of(small_world), run)
    return run


def test_baselines_are_compared_with_the_run_s_own_backbone(finished: Path, trained: Path) -> None:
    """Law: rows and labels are the run's test rows, the backbone's logits those of its report, bit for bit."""
    beside, own = read_predictions(trained / "whole"), read_predictions(finished)
    assert list(beside.logits) == ["backbone", "finetune", "single"]
    assert beside.domains == own.domains
    for name in ("label", "domain", "user"):
        np.testing.assert_array_equal(getattr(beside, name), getattr(own, name))
    np.testing.assert_array_equal(beside.logits["backbone"], own.logits["backbone"])
    report = json.loads((trained / "whole" / "report.json").read_text())
    assert set(report["evaluation"]["methods"]) == {"backbone", "finetune", "single"}
    assert set(report["training"]["whole"]["single"]) == set(own.domains)
    assert (trained / "whole" / "report.html").exists()


@pytest.mark.parametrize("kind", WHOLE_KINDS)
def test_a_row_is_scored_by_its_domain_s_network(
    small_world: Path, finished: Path, trained: Path, tmp_path: Path, kind: WholeKind
) -> None:
    """Law: each test row of a domain has the score of the network that was trained for that domain, and no other."""
    run = Run(config_of(small_world), finished, SilentMeter())
    trainer = whole_trainer(run, kind, run.positions.test)
    found, test = read_predictions(trained / "whole"), run.positions.test.numpy()
    again = list(trainer.each(lambda name, content: Memory(StateFolder(tmp_path), name, content)))
    assert {one.place.name for one in again} == set(found.domains)
    for one in again:
        mine = np.flatnonzero(found.domain == one.place.domain)
        np.testing.assert_array_equal(test[mine], one.rows.numpy())
        np.testing.assert_array_equal(found.logits[kind][mine], one.logits)


def test_what_is_finished_is_not_trained_again(small_world: Path, trained: Path, tmp_path: Path) -> None:
    """Law: a second training is refused; --resume reads what is there, and settings of another are an error."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    with pytest.raises(RunExists, match="already holds stage single"):
        train_whole(["single"], config_of(small_world), run)
    before = json.loads((run / "whole" / "report.json").read_text())  # seconds of every epoch among it
    train_whole(WHOLE_KINDS, config_of(small_world), run, resume=True)
    assert json.loads((run / "whole" / "report.json").read_text()) == before
    with pytest.raises(StateMismatch, match=r"whole\.lr was"):
        train_whole(["single"], config_of(small_world, lr=1e-2), run, resume=True)
    assert json.loads((run / "whole" / "report.json").read_text()) == before


def test_a_folder_of_something_else_is_refused(small_world: Path, tmp_path: Path) -> None:
    """Law: a folder that holds files, and no backbone, is left as it is."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunExists, match="exists and is not empty"):
        train_whole(["single"], config_of(small_world), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_backbone_of_another_kind_is_trained_first(small_world: Path, tmp_path: Path) -> None:
    """Law: in a new folder the backbone comes first, whatever its kind, and its baselines after it."""
    config = small_config(small_world, whole=ONCE, backbone={"width": 4, "tower": [16, 8], "kind": "deepfm"})
    folder = train_whole(["finetune"], config.model_copy(update={"pretrain": config.whole}), tmp_path / "run")
    found = read_predictions(folder)
    assert list(found.logits) == ["backbone", "finetune"]
    assert (found.logits["finetune"] != found.logits["backbone"]).any()


SMALL_PACKS = {"domains": 2}


@pytest.fixture(scope="module")
def in_packs(small_world: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with both baselines in packs of two domains; nobody may change it."""
    run = with_backbone(finished, tmp_path_factory.mktemp("packs") / "run")
    train_whole(WHOLE_KINDS, small_config(small_world, whole=ONCE, packed=SMALL_PACKS), run)
    return run


def with_backbone(finished: Path, folder: Path) -> Path:
    """A run folder with a backbone, and no more."""
    (folder / "state").mkdir(parents=True)
    shutil.copy(finished / "state" / "pretrain.safetensors", folder / "state")
    return folder


def assert_the_same_scores(mine: Path, other: Path) -> None:
    ours, theirs = read_predictions(mine / "whole").logits, read_predictions(other / "whole").logits
    assert list(ours) == list(theirs) == ["backbone", *WHOLE_KINDS]
    for name, logits in ours.items():
        np.testing.assert_array_equal(logits, theirs[name])


def test_shares_together_are_the_whole(small_world: Path, finished: Path, in_packs: Path, tmp_path: Path) -> None:
    """Law: two shares of two machines, brought together, are read and not trained again; the scores are the same."""
    config = small_config(small_world, whole=ONCE, packed=SMALL_PACKS)
    shares = [with_backbone(finished, tmp_path / f"share-{i}") for i in (1, 2)]
    for i, run in enumerate(shares, 1):
        assert train_whole(WHOLE_KINDS, config, run, share=(i, 2)) == run
        assert not (run / "whole").exists()
    packs = [{path.name for path in (run / "state" / "single" / "packed").iterdir()} for run in shares]
    assert all(packs)
    assert not packs[0] & packs[1]
    shutil.copytree(shares[1] / "state", shares[0] / "state", dirs_exist_ok=True)
    kept = {path: path.stat().st_mtime_ns for path in (shares[0] / "state").rglob("*/packed/*")}
    train_whole(WHOLE_KINDS, config, shares[0], resume=True)
    assert {path: path.stat().st_mtime_ns for path in (shares[0] / "state").rglob("*/packed/*")} == kept
    assert_the_same_scores(shares[0], in_packs)


def test_a_share_needs_the_backbone_of_all(small_world: Path, tmp_path: Path) -> None:
    """Law: a share trains no backbone of its own, and one that is none is refused before anything is read."""
    config = small_config(small_world, whole=ONCE, packed=SMALL_PACKS)
    with pytest.raises(ConfigError, match="no share 3 of 2"):
        train_whole(["single"], config, tmp_path / "run", share=(3, 2))
    assert not (tmp_path / "run").exists()
    with pytest.raises(StageMissing, match="espalier train pretrain"):
        train_whole(["single"], config, tmp_path / "run", share=(1, 2))


@pytest.mark.parametrize("memory_mib", [512, 1])
def test_workers_of_a_cluster_train_the_same(
    small_world: Path, finished: Path, in_packs: Path, tmp_path: Path, memory_mib: int
) -> None:
    """Law: packs, or domains too large for one, that a worker died over are run again; the scores are the same."""
    config = small_config(small_world, whole=ONCE, packed={**SMALL_PACKS, "memory_mib": memory_mib})
    other = in_packs
    if memory_mib == 1:
        other = with_backbone(finished, tmp_path / "one")
        train_whole(WHOLE_KINDS, config, other)
    run, engine = with_backbone(finished, tmp_path / "run"), LosingEngine({2})
    train_whole_on(engine, WHOLE_KINDS, config, run, PackCluster(workers=2), resume=False, meter=SilentMeter())
    assert any(name.startswith("packed/") for name in engine.names) == (memory_mib == 512)
    assert len(engine.names) == len(set(engine.names)) * len(WHOLE_KINDS) + 1
    assert_the_same_scores(run, other)


def test_rows_on_the_disk_are_not_sent_to_workers(small_world: Path, tmp_path: Path) -> None:
    """Law: what a worker is sent it holds in memory; nothing is written."""
    config = small_config(small_world, rows="disk")
    with pytest.raises(ConfigError, match="rows: memory"):
        train_whole_on(
            DirectEngine(), ["single"], config, tmp_path / "run", PackCluster(), resume=False, meter=SilentMeter()
        )
    assert not (tmp_path / "run").exists()
