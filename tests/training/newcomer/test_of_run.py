"""Overlays for the domains of a run: the run's own rows and rival, and a folder that can be published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters_store.artifact import decode_adapter
from adapters_store.backbone import Backbone as Bundle
from adapters_store.publishing import find_run, verify_run
from adapters_store.verification import LogitsOf
from service.engines.onnx import OnnxEngine
from tests.training.small import contents, small_config
from training.dataset import split_of
from training.errors import ConfigError, RunExists, StageMissing, StateMismatch
from training.newcomer.config import NewcomerConfig
from training.newcomer.of_run import overlay_run
from training.pipeline import train_all
from training.prepared import PreparedDataset
from training.progress import SilentMeter

THEMES = ("theme-01", "theme-02", "theme-03")


def settings(**changes: Any) -> NewcomerConfig:
    usual: dict[str, Any] = {
        "threads": 1,
        "overlay": {"ids": "all"},
        "schedule": {"lr": 5e-3, "batch_rows": 512, "epochs": 2, "dropout": 0.1},
        "gate": {"policy": "record"},
    }
    return NewcomerConfig.model_validate(usual | changes)


def engine_of(bundle: Bundle) -> LogitsOf:
    return OnnxEngine(bundle).logits


def published(folder: Path) -> dict[str, bytes]:
    """What publishing reads of a run folder."""
    return {name: content for name, content in contents(folder).items() if not name.startswith("ablations")}


@pytest.fixture(scope="module")
def alone(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose natural domains are served by adapters that stand alone; nobody may change it."""
    once = {"lr": 5e-3, "batch_rows": 512, "epochs": 1, "dropout": 0.1}
    changes: dict[str, Any] = {"fusion": {"mode": "single"}, "pretrain": once, "fuse": once}
    return train_all(small_config(small_world, **changes), tmp_path_factory.mktemp("alone") / "run")


@pytest.fixture(scope="module")
def overlaid(alone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run with overlays, whatever the gate says of them."""
    out = tmp_path_factory.mktemp("overlaid") / "out"
    overlay_run(alone, out, settings(), engine_of)
    return out


def test_the_folder_is_a_run_with_overlays(alone: Path, overlaid: Path) -> None:
    """Law: natural domains have overlays of both sides, every other artifact its bytes, the run all of its own; and
    publishing accepts the folder."""
    before, after = published(alone), published(overlaid)
    assert set(after) == set(before)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {f"adapters/{theme}.safetensors" for theme in THEMES}
    for name in changed:
        tensors = decode_adapter(after[name]).tensors
        assert {"overlay.user.codes", "overlay.item.codes"} <= set(tensors)
        assert not any(key.startswith("overlay.") for key in decode_adapter(before[name]).tensors)
    assert len(verify_run(find_run(overlaid), engine_of).adapters) == len(find_run(alone).adapters)


def test_rows_serve_what_they_served_in_the_run(small_world: Path, alone: Path, overlaid: Path) -> None:
    """Law: each domain is judged and tested on the run's own rows of it, its rival is what the run's report is of."""
    told = json.loads((overlaid / "overlays.json").read_text())["domains"]
    report = json.loads((alone / "report.json").read_text())["evaluation"]["methods"]["multi_lora"]["domains"]
    prepared = PreparedDataset.load(small_world)
    split, domain = split_of(prepared, 0), prepared.interactions["domain_id"].cast(str).to_numpy()
    assert set(told) == set(THEMES)
    for theme in THEMES:
        for part in ("stop", "gate", "test"):
            assert told[theme]["figures"][part]["rows"] == int(np.sum(domain[getattr(split, part)] == theme))
        assert told[theme]["figures"]["test"]["auc_live"] == pytest.approx(report[theme]["auc"], abs=2e-3)  # fp16
        manifest = decode_adapter((overlaid / "adapters" / f"{theme}.safetensors").read_bytes()).manifest
        assert manifest.gate is not None
        assert manifest.gate["rules"]["q"] == pytest.approx(0.1 / len(THEMES))


def test_what_does_not_pass_leaves_the_run_s_adapter(alone: Path, tmp_path: Path) -> None:
    """Law: under `withhold` a domain that does not pass keeps its bytes, and the reason is told."""
    config = settings(gate={"policy": "withhold", "min_positives": 100_000})
    done = overlay_run(alone, tmp_path / "out", config, engine_of)
    assert not any(one.replaced for one in done.values())
    assert all("positives" in one.why for one in done.values())
    assert published(tmp_path / "out") == published(alone)


class Stopped(Exception):
    """A person stops it."""


class Stopping(SilentMeter):
    """Stops when the first domain is done."""

    def say(self, line: str) -> None:
        if line.startswith(f"{THEMES[0]}: replaced"):
            raise Stopped


def test_it_goes_on_where_it_was_stopped(alone: Path, overlaid: Path, tmp_path: Path) -> None:
    """Law: what is done stays done, and the folder ends as that of one sitting; other settings are refused, those of an
    older build's keys too."""
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        overlay_run(alone, out, settings(), engine_of, meter=Stopping())
    with pytest.raises(RunExists, match="is not empty"):
        overlay_run(alone, out, settings(), engine_of)
    with pytest.raises(StateMismatch, match="seed was 0, is now 1"):
        overlay_run(alone, out, settings(seed=1), engine_of, resume=True)
    path = out / "overlays.json"
    kept = path.read_text()
    older = json.loads(kept)
    older["identity"]["config"]["schedule"] |= {"patience": 5}
    path.write_text(json.dumps(older))
    with pytest.raises(StateMismatch, match=r"config\.schedule\.patience was 5, is now None"):
        overlay_run(alone, out, settings(), engine_of, resume=True)
    path.write_text(kept)
    overlay_run(alone, out, settings(), engine_of, resume=True)
    assert published(out) == published(overlaid)
    assert (out / "overlays.json").read_bytes() == (overlaid / "overlays.json").read_bytes()


def test_what_cannot_be_overlaid_is_refused_before_anything_is_written(alone: Path, tmp_path: Path) -> None:
    """Law: a configuration that overlays nothing, and a folder that is no finished run, say what to do instead."""
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="set all or rare"):
        overlay_run(alone, out, settings(overlay={"ids": "unseen"}), engine_of)
    with pytest.raises(StageMissing, match="train all"):
        overlay_run(tmp_path, out, settings(), engine_of)
    assert not out.exists()


@pytest.fixture(scope="module")
def mixed(alone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, whose first domain is served by averaging with its auxiliary ones."""
    run = tmp_path_factory.mktemp("mixed") / "run"
    shutil.copytree(alone, run)
    (run / "adapters" / f"{THEMES[0]}.safetensors").write_bytes(
        (alone / "ablations" / "avg" / f"{THEMES[0]}.safetensors").read_bytes()
    )
    return run


def test_a_fused_domain_gets_its_overlay_beside_what_it_fuses(mixed: Path, tmp_path: Path) -> None:
    """Law: kind, pins and own tensors stay, the overlay comes to them, and publishing accepts the folder."""
    done = overlay_run(mixed, tmp_path / "out", settings(), engine_of)
    assert all(one.replaced for one in done.values())
    before, after = (
        decode_adapter((folder / "adapters" / f"{THEMES[0]}.safetensors").read_bytes())
        for folder in (mixed, tmp_path / "out")
    )
    assert (after.manifest.kind, after.manifest.mode, after.manifest.fuses) == ("fused", "avg", before.manifest.fuses)
    added = {name for name in after.tensors if name not in before.tensors}
    assert {"overlay.user.ids", "overlay.item.ids"} <= added
    assert all(name.startswith(("overlay.", "golden.overlay.")) for name in added)
    assert verify_run(find_run(tmp_path / "out"), engine_of).adapters


def test_the_rows_are_shifted_as_the_run_says(mixed: Path, tmp_path: Path) -> None:
    """Law: what share of the negatives the run kept is the rows' too: what is published has its shift, and another
    share is refused."""
    run = tmp_path / "run"
    shutil.copytree(mixed, run)
    report = json.loads((run / "report.json").read_text())
    report["training"]["config"]["calibration"]["negatives_kept"] = 0.1
    (run / "report.json").write_text(json.dumps(report))
    few = {"calibration": {"min_rows": 10**6}}
    overlay_run(run, tmp_path / "out", settings(**few), engine_of)
    for theme in THEMES[1:]:  # of kind lora, which learns the rows' scale
        line = decode_adapter(
            (tmp_path / "out" / "adapters" / f"{theme}.safetensors").read_bytes()
        ).manifest.calibration
        assert (line.slope, line.intercept) == (1.0, pytest.approx(np.log(0.1)))
    with pytest.raises(ConfigError, match=r"negatives_kept is 0\.5; the rows are the run's, which kept 0\.1"):
        overlay_run(run, tmp_path / "other", settings(calibration={"negatives_kept": 0.5}), engine_of)


def test_rare_ids_of_a_run_are_those_that_it_counted(mixed: Path, tmp_path: Path) -> None:
    """Law: `rare` overlays the ids that few training rows of the run name; a fused domain without any stays as it is,
    and that is said."""
    few = overlay_run(mixed, tmp_path / "few", settings(overlay={"ids": "rare", "rare_below": 12}), engine_of)
    every = overlay_run(mixed, tmp_path / "every", settings(), engine_of)
    for theme in THEMES:
        assert 0 < few[theme].overlay["user"] < every[theme].overlay["user"]
    none = overlay_run(mixed, tmp_path / "none", settings(overlay={"ids": "rare", "rare_below": 1}), engine_of)
    assert "no id of it is to have an embedding" in none[THEMES[0]].why
    assert not none[THEMES[0]].replaced
