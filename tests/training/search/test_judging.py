"""Trials that are really trained: worth what `espalier train` would find, and blind to the gate and test rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from tests.training.search.told import Listening
from tests.training.search.world import framework, stages
from training.config import TrainingConfig
from training.dataset import split_of
from training.frameworks.run import MamdrRun
from training.metrics import auc, log_loss, probabilities
from training.prepared import PreparedDataset
from training.progress import SilentMeter
from training.search import judging
from training.search.found import Budget
from training.search.judging import Judge, Judged, ground, lay
from training.search.searching import search
from training.sources.synthetic import SyntheticWorld, synthetic
from training.stages import Run

OF_STAGES: dict[str, Judge] = {
    "pretrain": judging.pretrain,
    "adapters": judging.adapters,
    "fuse": judging.fuse,
    "single": judging.single,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data: 6,000 rows, two themes, two segments."""
    folder = tmp_path_factory.mktemp("search-world")
    synthetic(SyntheticWorld(seed=0, rows=6_000, users=60, items=30, domains=2, segments=2)).write(folder)
    return folder


@pytest.fixture(scope="module")
def flipped(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, the labels of the `gate` and test rows turned round."""
    prepared = PreparedDataset.load(world)
    split = split_of(prepared, 0)
    label = prepared.interactions["label"].to_numpy().copy()
    unseen = np.concatenate([split.gate, split.test])
    label[unseen] = 1 - label[unseen]
    folder = tmp_path_factory.mktemp("flipped")
    column = pl.Series("label", label, dtype=prepared.interactions["label"].dtype)
    replace(prepared, interactions=prepared.interactions.with_columns(column)).write(folder)
    return folder


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with all that the trials of the stages train."""
    return judged_stages(world, tmp_path_factory.mktemp("trained"))[0]


def judged_stages(data: Path, out: Path) -> tuple[Path, dict[str, Judged]]:
    config = stages(data)
    return out, {name: judge(config, out, SilentMeter()) for name, judge in OF_STAGES.items()}


def test_no_trial_sees_the_gate_or_test_rows(world: Path, flipped: Path, trained: Path, tmp_path: Path) -> None:
    """Law: of every method the worth of a trial is the same, bit for bit, whatever those rows' labels are."""
    _, other = judged_stages(flipped, tmp_path / "stages")
    assert judged_stages(world, trained)[1] == other
    mine, its = (
        judging.framework(framework(data), tmp_path / f"framework-{data.name}", SilentMeter())
        for data in (world, flipped)
    )
    assert mine == its
    assert all(one.auc is not None and one.log_loss is not None for one in (*other.values(), mine))


def test_a_trial_of_the_stages_is_worth_what_training_finds(world: Path, trained: Path) -> None:
    """Law: the AUCs are those of the stages' own selection, from the same state without training anything again."""
    config = stages(world)
    run = Run(config, trained, SilentMeter())
    pretrained = run.pretrained()
    adapters = run.adapters(pretrained)
    _, fusions = run.fusions(pretrained, adapters)
    judged = judged_stages(world, trained)[1]
    assert judged["pretrain"].auc == pretrained.fitted.auc
    assert judged["fuse"].auc == next(fusion.fitted.auc for fusion in fusions if fusion.mode == "attention")


def test_a_trial_of_adapters_scores_each_row_by_its_own(world: Path, trained: Path) -> None:
    """Law: AUC and LogLoss are means over divisions, each row scored by its domain's adapter, else by the backbone."""
    run = Run(stages(world), trained, SilentMeter())
    pretrained = run.pretrained()
    by_place = {(one.place.division, one.place.domain): one.adapter for one in run.adapters(pretrained)}
    stop = run.positions.stop
    found = []
    for division in range(len(run.rows.divisions)):
        logits = np.empty(len(stop))
        domains = run.rows.domains[stop, division]
        for domain in domains.unique().tolist():
            inside = domains == domain
            with torch.no_grad():
                scored = pretrained.backbone(run.rows.batch(stop[inside]), by_place.get((division, domain)))
            logits[inside.numpy()] = scored.numpy()
        label = run.rows.label[stop].numpy()
        found.append((auc(label, logits), log_loss(label, probabilities(logits))))
    judged = judging.adapters(stages(world), trained, SilentMeter())
    assert len(found) == 2
    assert judged.auc == pytest.approx(np.mean([area for area, _ in found]), abs=1e-6)
    assert judged.log_loss == pytest.approx(np.mean([loss for _, loss in found]), abs=1e-6)


def test_a_trial_of_a_framework_is_worth_what_its_run_selects(world: Path, tmp_path: Path) -> None:
    """Law: the AUC is the mean over domains that the run itself selects by."""
    config = framework(world)
    judged = judging.framework(config, tmp_path / "trial", SilentMeter())
    assert judged.auc == MamdrRun(config, tmp_path / "run", SilentMeter()).fitted().auc


def test_networks_that_no_pack_holds_are_trained_one_by_one(world: Path, tmp_path: Path) -> None:
    """Law: a baseline of another kind of network is judged too; one that starts from the backbone is never worth less
    than a network that hardly moves from it."""
    config = stages(world, backbone={"width": 4, "tower": [8, 4], "kind": "wide_deep"}, whole={"lr": 1e-9, "epochs": 1})
    tuned = judging.finetune(config, tmp_path, SilentMeter())
    backbone = judging.pretrain(config, tmp_path, SilentMeter())
    assert tuned.auc == pytest.approx(backbone.auc, abs=2e-3)


def test_what_is_not_finite_is_worth_nothing(world: Path, tmp_path: Path) -> None:
    """Law: a training that ran away has no AUC, and does not stop the search: alone or in packs."""
    wild = {"lr": 1e30, "batch_rows": 512, "epochs": 1}
    assert judging.pretrain(stages(world, pretrain=wild), tmp_path / "one", SilentMeter()) == judging.NOTHING
    assert judging.single(stages(world, whole=wild), tmp_path / "packs", SilentMeter()) == judging.NOTHING


def test_the_ground_is_laid_whole_and_never_changed(world: Path, tmp_path: Path) -> None:
    """Law: a trial finds the stages before it in its folder, as they were trained; what it writes is its own."""
    config = stages(world)
    ground(("pretrain",), config, tmp_path / "ground", SilentMeter())
    before = {path: path.read_bytes() for path in (tmp_path / "ground").rglob("*.safetensors")}
    for _ in range(2):
        lay(tmp_path / "ground", tmp_path / "trial")
    judging.adapters(config, tmp_path / "trial", SilentMeter())
    assert {path: path.read_bytes() for path in (tmp_path / "ground").rglob("*.safetensors")} == before
    assert len(list((tmp_path / "trial").rglob("*.safetensors"))) > len(before) == 1


def test_what_is_found_is_what_training_then_gives(world: Path, tmp_path: Path) -> None:
    """Law: stages one after another, each from what was found before it; a run of the last configuration reaches,
    stage by stage, the AUC that the search wrote down, bit for bit."""
    meter = Listening()
    found = search(stages(world), ("adapters", "pretrain"), tmp_path / "search", Budget(2), meter=meter)
    assert [one.name for one in found] == ["pretrain", "adapters"]
    assert [line.split(":")[0] for line in meter.lines[:2]] == ["search pretrain", "search adapters"]
    config = found[-1].config
    assert isinstance(config, TrainingConfig)
    run = Run(config, tmp_path / "run", SilentMeter())
    assert run.pretrained().fitted.auc == found[0].best.judged.auc
    assert judging.adapters(config, tmp_path / "run", SilentMeter()) == found[1].best.judged
