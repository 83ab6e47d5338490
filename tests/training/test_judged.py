"""Calibration and gate in whole runs: what is exported, what is not, and what the manifests and the report say."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters_store.artifact import decode_adapter, decode_fusion
from adapters_store.backbone import read_bundle
from adapters_store.verification import verify_adapter
from service.engine import Segment
from service.engines.onnx import OnnxEngine
from tests.training.small import small_config
from training.artifacts_of import Notes
from training.calibration import Calibration
from training.config import GateConfig, TrainingConfig
from training.gate import Verdict
from training.judged import Judged, NaturalRows, gate
from training.newcomer.config import NewcomerConfig
from training.pipeline import train_all
from training.predictions import read_predictions

NATURAL = {"theme-01", "theme-02", "theme-03"}
AUXILIARY = {"segment-a", "segment-b"}


def again(data: Path, finished: Path, out: Path, **changes: Any) -> Path:
    """Finish the finished run once more under other rules: they are no part of what is trained."""
    shutil.copytree(finished, out)
    return train_all(small_config(data, export_ablations=False, **changes), out, resume=True)


@pytest.fixture(scope="module")
def strict(small_world: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that lets nothing pass."""
    gate = {"policy": "withhold", "min_positives": 10_000}
    return again(small_world, finished, tmp_path_factory.mktemp("strict") / "run", gate=gate)


@pytest.fixture(scope="module")
def eager(small_world: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that tests and calibrates the smallest domain."""
    changes: dict[str, Any] = {
        "gate": {"policy": "record", "min_positives": 1, "q": 0.5, "auc_margin": 1.0},
        "calibration": {"min_rows": 20, "min_of_class": 5, "negatives_kept": 0.5},
    }
    return again(small_world, finished, tmp_path_factory.mktemp("eager") / "run", **changes)


def report(run: Path) -> dict[str, Any]:
    """What report.json keeps of the training."""
    return dict(json.loads((run / "report.json").read_text())["training"])


def published(run: Path) -> set[str]:
    """Domains that have an adapter."""
    return {path.stem for path in (run / "adapters").iterdir()}


def test_a_domain_that_does_not_pass_publishes_nothing(finished: Path, strict: Path) -> None:
    """Law: with `withhold` its file is gone and the report says why; auxiliaries, which others pin, stay."""
    assert published(finished) == NATURAL | AUXILIARY
    assert published(strict) == AUXILIARY
    for verdict in report(strict)["gate"]["domains"].values():
        assert not verdict["passed"]
        assert "fewer than 10000" in verdict["reason"]
    page = (strict / "report.md").read_text()
    assert "0 of 3 natural domains pass" in page
    assert page.count("fewer than 10000") == 3


def test_a_manifest_holds_its_verdict_and_the_rules(eager: Path) -> None:
    """Law: with `record` every domain is exported, its verdict in manifest and report; auxiliaries have none."""
    gate = report(eager)["gate"]
    assert gate["rules"]["policy"] == "record"
    assert (gate["rules"]["domains"], gate["rules"]["q"]) == (3, 0.5)
    for path in (eager / "adapters").iterdir():
        found = decode_adapter(path.read_bytes()).manifest.gate
        expected = {**gate["domains"][path.stem], "rules": gate["rules"]} if path.stem in NATURAL else None
        assert found == expected


def test_the_bundle_is_on_the_scale_of_its_adapters(finished: Path, eager: Path) -> None:
    """Law: where negatives were down-sampled, the backbone is shifted as every adapter is; else it says nothing."""
    assert "calibration" not in json.loads((finished / "bundle" / "manifest.json").read_text())
    line = read_bundle(eager / "bundle").manifest.calibration
    assert (line.slope, line.intercept) == (1.0, math.log(0.5))


def test_ablations_are_not_judged(finished: Path) -> None:
    """Law: the gate is of what serves; an ablation has its own mode's calibration and no verdict."""
    for path in finished.glob("ablations/*/*.safetensors"):
        manifest = decode_adapter(path.read_bytes()).manifest
        assert manifest.gate is None
        assert manifest.training["calibration"]["rows"] > 0


def test_without_a_gate_nothing_is_judged() -> None:
    """Law: `none` gives no verdict, so that neither manifest nor report has one; another policy gives one a domain."""
    rng = np.random.default_rng(0)
    label, domain = rng.integers(0, 2, 60).astype(np.float32), rng.integers(-1, 2, 60)
    rows, lines = NaturalRows(label, domain, ("a", "b")), [Calibration(1.0, 0.0, 0.0, 0, 0, "few")] * 2
    for policy, expected in {"none": [], "record": ["a", "b"]}.items():
        config = GateConfig.model_validate({"policy": policy})
        verdicts = gate(rows, rng.normal(size=60), rng.normal(size=60), lines, config)
        assert list(verdicts) == expected
        assert [verdict.rows for verdict in verdicts.values()] == [np.sum(domain == i) for i in range(len(expected))]
    judged = Judged({"avg": {"a": lines[0]}}, {}, GateConfig(policy="none"))
    assert judged.gated_notes("a", "avg", Notes()).gate is None
    assert judged.line() == "publish gate: none"


def test_each_domain_is_told_what_its_own_line_gains() -> None:
    """Law: a verdict's figure is of the line of that domain, in the domains' order; the identity gains nothing."""
    rng = np.random.default_rng(1)
    backbone, domain = 2.0 * rng.normal(size=4000), rng.integers(0, 2, 4000)
    label = (rng.random(4000) < 1 / (1 + np.exp(-backbone / 2))).astype(np.float32)
    rows, lines = (
        NaturalRows(label, domain, ("a", "b")),
        [Calibration(slope, 0.0, 0.0, 9, 5, None) for slope in (0.5, 1)],
    )
    found = gate(rows, backbone + rng.normal(size=4000), backbone, lines[1:] * 2, GateConfig(), lines)
    losses = [found[name].loss for name in ("a", "b")]
    gains = [np.logaddexp(0.0, z) - label * z for z in (backbone, backbone / 2)]
    assert losses[0] is not None
    assert losses[1] is not None
    assert losses[0].calibration_gain == pytest.approx((gains[0] - gains[1])[domain == 0].mean())
    assert losses[1].calibration_gain == 0.0


def test_a_run_tells_what_calibration_alone_gains(eager: Path) -> None:
    """Law: the verdict on every domain that is tested has it, in report and table."""
    losses = [verdict["log_loss"] for verdict in report(eager)["gate"]["domains"].values()]
    assert all(loss is None or math.isfinite(loss["calibration_gain"]) for loss in losses)
    assert any(loss is not None and loss["calibration_gain"] != 0.0 for loss in losses)
    assert "by calibration alone" in (eager / "report.md").read_text()


def test_a_run_withholds_unless_it_is_told_otherwise() -> None:
    """Law: a configuration that says nothing publishes only what passes; a domain added by hand is published."""
    assert TrainingConfig().gate.policy == "withhold"
    assert NewcomerConfig().gate.policy == "record"


def test_only_withholding_withholds() -> None:
    """Law: of one that passed and one that did not, `withhold` names the second, the other policies none."""
    verdicts = {"a": Verdict(True, "", 5, 2), "b": Verdict(False, "", 5, 2)}
    for policy, expected in {"withhold": {"b"}, "record": set(), "none": set()}.items():
        assert Judged({}, verdicts, GateConfig.model_validate({"policy": policy})).withheld() == expected


def test_notes_carry_the_line_of_their_own_candidate() -> None:
    """Law: slope and shifted intercept come from the candidate that the artifact is; what the notes held stays."""
    lines = {"avg": Calibration(2.0, 0.5, -1.0, 300, 40, None), "single": Calibration(1.0, 0.0, -1.0, 9, 4, "few")}
    judged = Judged({"avg": {"a": lines["avg"]}, "single": {"a": lines["single"]}}, {}, GateConfig())
    notes = Notes({"auc": 0.7}, {"epoch": 3})
    found = judged.gated_notes("a", "avg", notes)
    assert found.calibration == {"slope": 2.0, "intercept": -0.5}
    assert (found.metrics, found.training["epoch"], found.gate) == (notes.metrics, 3, None)
    assert found.training["calibration"]["method"] == "platt"
    assert judged.notes("a", "single", notes).calibration == {"slope": 1.0, "intercept": -1.0}


def test_calibration_reaches_the_engine(eager: Path) -> None:
    """Law: what was fitted stands in the manifest, and the engine scores by slope * logit + intercept."""
    bundle = read_bundle(eager / "bundle")
    engine = OnnxEngine(bundle)
    decoded = {path.stem: decode_adapter(path.read_bytes()) for path in (eager / "adapters").iterdir()}
    fusion = decode_fusion((eager / "fusion.safetensors").read_bytes())
    rows = bundle.golden()[0]
    assert decoded["segment-a"].manifest.calibration.intercept == 0.0
    for name in sorted(NATURAL):
        found, adapter = report(eager)["calibration"]["domains"][name], decoded[name]
        carried = adapter.manifest.calibration
        assert (carried.slope, carried.intercept) == (found["slope"], found["intercept"])
        assert found["fitted"]["shift"] == math.log(0.5)
        used = fusion if adapter.manifest.fusion else None
        folds = verify_adapter(adapter, bundle, decoded, used, engine.logits, name)
        for fold in folds.values():
            raw = engine.logits(rows, fold)
            (served,) = engine.run([Segment(rows, engine.prepare(fold), engine)])
            np.testing.assert_allclose(served, carried.slope * raw + carried.intercept, rtol=0, atol=1e-5)


def test_methods_are_compared_before_calibration(finished: Path, eager: Path) -> None:
    """Law: calibration changes no prediction and no figure of the evaluation."""
    before, after = (read_predictions(run).logits for run in (finished, eager))
    assert before.keys() == after.keys()
    for method, logits in before.items():
        np.testing.assert_array_equal(after[method], logits)
    one, other = (json.loads((run / "report.json").read_text())["evaluation"] for run in (finished, eager))
    assert one == other


def test_report_shows_calibration_before_and_after(finished: Path) -> None:
    """Law: the page has COPC and ECE before and after for all rows and each natural domain, and why none was fitted."""
    page = (finished / "report.md").read_text().split("## Calibration")[1].split("\n## ")[0]
    for name in ("all rows", *NATURAL):
        assert f"| {name} |" in page
    assert "fewer than 200" in page
    assert "COPC" in page
