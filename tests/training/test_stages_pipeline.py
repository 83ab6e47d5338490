"""Whole runs: order of stages, what is refused, what is left behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from adapters_store.artifact import decode_adapter
from adapters_store.backbone import read_bundle
from adapters_store.tensors import TensorLimits
from cli.train import app
from tests.training.small import contents, small_config
from training.errors import ConfigError, RunExists, StageMissing, StateMismatch
from training.figures import METHOD_OF, SERVED
from training.pipeline import train, train_all
from training.predictions import read_predictions
from training.prepared import PreparedDataset
from training.progress import SilentMeter
from training.stages import Run, refuse_existing

METHODS = {"backbone", "single_lora", "multi_lora", "multi_lora_attention", "multi_lora_avg", "multi_lora_add"}


def test_run_leaves_everything_that_is_published_and_read(finished: Path) -> None:
    """Law: `all` ends with a bundle, an adapter for every domain, every mode's ablations, predictions and a report."""
    domains = {f"theme-0{i}" for i in (1, 2, 3)} | {"segment-a", "segment-b"}
    assert {path.stem for path in (finished / "adapters").iterdir()} == domains
    assert {path.name for path in (finished / "ablations").iterdir()} == {"attention", "add", "avg", "single"}
    assert read_bundle(finished / "bundle").manifest.tower == [16, 8]
    assert (finished / "report.md").read_text().count(".png") >= 1
    assert set(json.loads((finished / "report.json").read_text())["evaluation"]["methods"]) == METHODS
    assert set(read_predictions(finished).logits) == METHODS


def test_stages_one_by_one_equal_all(small_world: Path, finished: Path, tmp_path: Path) -> None:
    """Law: `pretrain`, `adapters`, `fuse` into one folder give the bytes of `all`."""
    for stage in ("pretrain", "adapters", "fuse"):
        train(stage, small_config(small_world), tmp_path / "run")
    assert contents(tmp_path / "run") == contents(finished)


def test_resuming_a_finished_run_changes_nothing(small_world: Path, finished: Path) -> None:
    """Law: `--resume` on a finished run gives the same bytes again."""
    before = contents(finished)
    train_all(small_config(small_world), finished, resume=True)
    assert contents(finished) == before


@pytest.mark.parametrize(("stage", "missing"), [("adapters", "pretrain"), ("fuse", "pretrain")])
def test_stage_without_the_one_before_is_refused(small_world: Path, tmp_path: Path, stage: str, missing: str) -> None:
    """Law: a stage whose predecessor is not finished is refused, and the message says which command to run."""
    with pytest.raises(StageMissing, match=f"no finished {missing}: run `espalier train {missing}`"):
        train(stage, small_config(small_world), tmp_path / "run")
    refuse_existing(tmp_path / "run", "all", resume=False)  # so the advice can be taken, in the same folder


def test_fuse_without_adapters_is_refused(small_world: Path, tmp_path: Path) -> None:
    """Law: stage 3 needs every domain's adapter."""
    train("pretrain", small_config(small_world), tmp_path / "run")
    with pytest.raises(StageMissing, match="no finished adapters/theme-01: run `espalier train adapters`"):
        train("fuse", small_config(small_world), tmp_path / "run")


@pytest.mark.parametrize("stage", ["all", "pretrain", "adapters", "fuse"])
def test_existing_run_is_not_overwritten(small_world: Path, finished: Path, stage: str) -> None:
    """Law: without `--resume` nothing is trained into a folder that already holds the stage."""
    with pytest.raises(RunExists, match="--resume"):
        train(stage, small_config(small_world), finished)


def test_state_of_other_settings_is_refused(small_world: Path, finished: Path) -> None:
    """Law: resuming with another setting that matters is refused, and the message names it."""
    with pytest.raises(StateMismatch, match="seed was 0, is now 1"):
        train_all(small_config(small_world, seed=1), finished, resume=True)


def test_state_of_other_data_is_refused(small_world: Path, finished: Path, tmp_path: Path) -> None:
    """Law: resuming on other data is refused, though the folder's name may be the same."""
    for path in small_world.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "spec.json").open("a") as spec:
        spec.write("\n")
    with pytest.raises(StateMismatch, match="data was"):
        train_all(small_config(tmp_path), finished, resume=True)


def test_later_settings_do_not_touch_earlier_stages(small_world: Path, finished: Path) -> None:
    """Law: a stage's state depends on its own settings and those before it alone."""
    changed = small_config(small_world, fuse={"lr": 1e-4}, select="last_epoch")
    run = Run(changed, finished, SilentMeter())
    run.require("pretrain")
    with pytest.raises(StateMismatch, match="select"):
        run.require("adapters")


def test_run_without_data_is_refused(tmp_path: Path) -> None:
    """Law: a configuration without data is refused, and the message says how to give some."""
    with pytest.raises(ConfigError, match="--data"):
        train_all(small_config(None), tmp_path / "run")


def test_last_epoch_serves_the_mode_itself(small_world: Path, tmp_path: Path) -> None:
    """Law: with `last_epoch` no early stop and no gate empties an adapter: every natural one is fused, and differs."""
    run = train_all(small_config(small_world, select="last_epoch"), tmp_path / "run")
    for path in (run / "adapters").glob("theme-*"):
        adapter = decode_adapter(path.read_bytes(), TensorLimits())
        assert adapter.manifest.mode == "attention"
        assert np.abs(adapter.tensors["tower.0.up"]).max() > 0
    logits = read_predictions(run).logits
    assert np.mean(np.abs(logits["multi_lora"] - logits["backbone"]) > 1e-3) > 0.95


def test_command_refuses_an_unknown_key_by_name(tmp_path: Path) -> None:
    """Law: the command ends with 1 and one line that names the key and the near one."""
    (tmp_path / "config.yaml").write_text("pretrain: {epoch: 3}\n")
    result = CliRunner().invoke(app, ["all", "--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")])
    assert result.exit_code == 1
    assert "pretrain.epoch is no known key; did you mean 'epochs'?" in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "run").exists()


def test_run_without_frequent_pairs_is_trained_to_the_end(small_world: Path, tmp_path: Path) -> None:
    """Law: where no pair has norms of its own, average and sum have nothing to learn, and the run still finishes."""
    fusion = {"min_tuple_rows": 100_000}
    run = train_all(small_config(small_world, fusion=fusion), tmp_path / "run")
    curves = json.loads((run / "report.json").read_text())["training"]["fuse"]
    assert [curves[mode]["epoch"] for mode in ("avg", "add")] == [0, 0]
    before = contents(run)
    train_all(small_config(small_world, fusion=fusion), run, resume=True)
    assert contents(run) == before


def test_run_without_auxiliary_division_is_trained_to_the_end(small_world: Path, tmp_path: Path) -> None:
    """Law: with the natural division alone there is nothing to fuse, and every adapter is one domain's own."""
    prepared = PreparedDataset.load(small_world)
    spec = prepared.spec.model_copy(update={"divisions": tuple(d for d in prepared.spec.divisions if d.natural)})
    replace(prepared, spec=spec).write(tmp_path / "prepared")
    run = train_all(small_config(tmp_path / "prepared", select="last_epoch"), tmp_path / "run")
    adapters = [decode_adapter(path.read_bytes(), TensorLimits()) for path in (run / "adapters").iterdir()]
    assert [adapter.manifest.kind for adapter in adapters] == ["lora"] * 3


def test_manifests_carry_the_metrics_of_their_own_mode(finished: Path) -> None:
    """Law: an ablation records what its own mode is worth on its domain, a served adapter what serving is worth."""
    methods = json.loads((finished / "report.json").read_text())["evaluation"]["methods"]
    folders = {METHOD_OF[mode]: finished / "ablations" / mode for mode in METHOD_OF} | {SERVED: finished / "adapters"}
    for method, folder in folders.items():
        for path in folder.glob("theme-*"):
            manifest = decode_adapter(path.read_bytes(), TensorLimits()).manifest
            assert manifest.metrics == methods[method]["domains"][path.stem]
