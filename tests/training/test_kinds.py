"""A whole run of every kind of backbone: its files pass what publishing runs, and are served as the oracle scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from adapters_store.artifact import decode_adapter, decode_fusion
from adapters_store.backbone import read_bundle
from adapters_store.verification import verify_adapter, verify_backbone
from benchmarks.forge import Run, pins_of
from benchmarks.oracle_files import AdapterFile
from benchmarks.oracle_network import sigmoid
from features.rows import EncodedRows
from service.engine import Segment
from service.engines.onnx import OnnxEngine
from tests.training.small import small_config
from training.config import BackboneConfig, TrainingConfig
from training.errors import ConfigError
from training.pipeline import train_all
from training.progress import SilentMeter
from training.ranks import adapter_ranks, fusion_ranks
from training.stages import Run as TrainingRun

SIZES: dict[str, Any] = {
    "width": 4,
    "tower": [8],
    "embedding_std": 0.1,
    "cross_layers": 2,
    "attention_layers": 1,
    "head_width": 2,
}
SCHEDULE: dict[str, Any] = {"lr": 5e-3, "batch_rows": 1024, "epochs": 1, "dropout": 0.1}
CASES: dict[str, dict[str, Any]] = {
    "wide_deep": {},
    "deepfm": {"norm": False},
    "dcn": {},
    "dcn_v2": {},
    "neurfm": {},
    "autoint": {"norm": False},
}


def config_of(kind: str, data: Path | None, **changes: Any) -> TrainingConfig:
    """One epoch of each stage; what trained is exported, whatever validation says."""
    stages = {"pretrain": SCHEDULE, "adapters": SCHEDULE, "fuse": SCHEDULE, "select": "last_epoch"}
    backbone = {**SIZES, "kind": kind, **CASES[kind]}
    adapter = {"ranks": [2], "interaction_rank": 2}
    return small_config(
        data, **{**stages, "backbone": backbone, "adapter": adapter, "export_ablations": False, **changes}
    )


@pytest.mark.parametrize("kind", sorted(CASES))
def test_a_run_of_every_kind_is_served_as_the_oracle_scores(small_world: Path, tmp_path: Path, kind: str) -> None:
    """Law: `train all` works for each kind; its artifacts verify, move the scores, and are served within 2e-6."""
    train_all(config_of(kind, small_world), tmp_path / "run")
    run = Run(tmp_path / "run")
    bundle, oracle, auxiliaries = read_bundle(run.folder / "bundle"), run.oracle, run.auxiliaries()
    engine = OnnxEngine(bundle)
    verify_backbone(bundle, engine.logits)
    fusion = decode_fusion((run.folder / "fusion.safetensors").read_bytes())
    decoded = {path.stem: decode_adapter(path.read_bytes()) for path in (run.folder / "adapters").iterdir()}
    golden = bundle.tensors("golden")
    rows, x = bundle.golden()[0], oracle.golden_vectors(golden)
    plain = sigmoid(oracle.logits(x))
    np.testing.assert_allclose(golden["logits"], oracle.logits(x), atol=1e-10)
    for domain in run.domains:
        adapter, file = decoded[domain], AdapterFile(run.folder / "adapters" / f"{domain}.safetensors")
        assert set(adapter.manifest.ranks) == set(bundle.modules)
        assert adapter.manifest.kind == "fused"
        folds = verify_adapter(adapter, bundle, decoded, fusion, engine.logits, domain)
        for combination, fold in folds.items():
            present = [pins_of(file, auxiliaries)[d] for d in combination if d is not None]
            expected = oracle.logits(x, file, present, run.fusion(), oracle.norm_of(file, combination))
            (logits,) = engine.run([Segment(EncodedRows(rows.n, rows.arrays), engine.prepare(fold), engine)])
            np.testing.assert_allclose(sigmoid(logits), sigmoid(expected), rtol=0, atol=2e-6)
            assert np.abs(sigmoid(expected) - plain).max() > 1e-4


def test_target_modules_choose_by_name_beginning_and_end(small_world: Path, tmp_path: Path) -> None:
    """Law: a target is a module's whole name or whole words at its beginning or end; the others get rank 0."""
    shape = TrainingRun(config_of("autoint", small_world), tmp_path / "run", SilentMeter()).shape
    names = [module.name for module in shape.modules]

    def chosen(*targets: str) -> set[str]:
        config = config_of("autoint", None, adapter={"ranks": [3], "interaction_rank": 5, "target_modules": targets})
        ranks = adapter_ranks(shape, config.adapter)
        assert all(
            (a > 0) == (b > 0) for a, b in zip(ranks, fusion_ranks(shape, config.fusion, config.adapter), strict=True)
        )
        assert set(ranks) <= {0, 3, 5}
        return {name for name, rank in zip(names, ranks, strict=True) if rank}

    assert chosen("tower") == {"tower.0"}
    assert chosen("query", "value") == {"attention.0.query", "attention.0.value"}
    assert chosen("attention.0.key", "tower.0") == {"attention.0.key", "tower.0"}
    assert chosen("attention") == set(names) - {"tower.0"}


def test_a_target_that_names_no_module_is_refused_before_training(small_world: Path, tmp_path: Path) -> None:
    """Law: a wrong target stops the run at once, and the message lists what there is."""
    for target in ("cross", "tower.1", "uery"):
        config = config_of("autoint", small_world, adapter={"ranks": [2], "target_modules": ["tower", target]})
        with pytest.raises(ConfigError, match=f"names '{target}', which is no module of kind 'autoint'"):
            TrainingRun(config, tmp_path / "run", SilentMeter())


def test_an_unknown_kind_is_refused() -> None:
    """Law: a kind that this build does not have is refused by name."""
    with pytest.raises(ValidationError, match="wide_deep"):
        BackboneConfig.model_validate({"kind": "transformer"})


def test_new_settings_do_not_change_an_old_runs_identity(small_world: Path, tmp_path: Path) -> None:
    """Law: settings that came later and change nothing are no part of a checkpoint's identity, so old runs resume."""
    run = TrainingRun(small_config(small_world), tmp_path / "run", SilentMeter())
    identity = run.memory("fuse", "fuse/attention").identity
    assert set(identity["backbone"]) == {"width", "tower", "embedding_std", "norm_eps", "norm_momentum"}
    assert set(identity["adapter"]) == {"ranks", "moments", "down_std", "scale_mean", "scale_std"}
    assert "interaction_rank" not in identity["fusion"]
    other = TrainingRun(config_of("dcn", small_world), tmp_path / "other", SilentMeter())
    assert other.memory("pretrain", "pretrain").identity["backbone"]["kind"] == "dcn"
