"""A run with two auxiliary divisions, one by one and in packs, from rows to artifacts that an engine reproduces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters_store.artifact import Adapter, decode_adapter, decode_fusion
from adapters_store.backbone import read_bundle
from adapters_store.verification import verify_adapter
from features.fields import Division
from service.engines.onnx import OnnxEngine
from tests.training.small import small_config
from training.pipeline import train_all
from training.prepared import PreparedDataset

ACTIVITY = Division(
    name="activity",
    natural=False,
    of="user",
    rule="count:40,55",
    domains=("activity-low", "activity-mid", "activity-high"),
)


@pytest.fixture(scope="module")
def divided(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world, its users divided by segment and by how many rows they have."""
    prepared = PreparedDataset.load(small_world)
    spec = prepared.spec.model_copy(update={"divisions": (*prepared.spec.divisions, ACTIVITY)})
    folder = tmp_path_factory.mktemp("divided")
    replace(prepared, spec=spec).write(folder)
    return folder


def adapters_of(run: Path) -> dict[str, Adapter]:
    """Every adapter of a run, by domain."""
    return {path.stem: decode_adapter(path.read_bytes()) for path in (run / "adapters").iterdir()}


@pytest.mark.parametrize("packed", [None, {"domains": 4}])
def test_two_auxiliary_divisions_are_trained_fused_and_reproduced(divided: Path, tmp_path: Path, packed: Any) -> None:
    """Law: natural adapters fuse both divisions, tuples with enough rows have their own norms, and golden rows hold."""
    config = small_config(divided, packed=packed, select="last_epoch", export_ablations=False)
    run = train_all(config, tmp_path / "run")
    found, bundle = adapters_of(run), read_bundle(run / "bundle")
    fusion, engine = decode_fusion((run / "fusion.safetensors").read_bytes()), OnnxEngine(bundle)
    natural = {name: adapter for name, adapter in found.items() if name.startswith("theme-")}
    assert found.keys() - natural.keys() == {"segment-a", "segment-b", *ACTIVITY.domains}
    paired = set()
    for name, adapter in natural.items():
        assert adapter.manifest.auxiliary == ["segment", "activity"]
        folds = verify_adapter(adapter, bundle, found, fusion, engine.logits, name)
        assert len(folds) == (2 + 1) * (3 + 1)
        paired |= {tuple(pair.domains) for pair in adapter.manifest.pairs}
    assert any(None not in pair for pair in paired)


def test_packs_of_three_divisions_learn_what_one_by_one_does(divided: Path, tmp_path: Path) -> None:
    """Law: with two auxiliary divisions, too, every adapter's validation AUC is the same in packs, but for rounding."""
    runs = [
        train_all(small_config(divided, packed=packed, export_ablations=False), tmp_path / name)
        for name, packed in (("alone", None), ("packs", {"domains": 4}))
    ]
    alone, packs = (
        {name: adapter.manifest.training["validation_auc"] for name, adapter in adapters_of(run).items()}
        for run in runs
    )
    assert alone.keys() == packs.keys()
    assert len(alone) == 3 + 2 + 3
    for name, auc in alone.items():
        assert packs[name] == pytest.approx(auc, abs=1e-2), name  # a pair of the smallest domain's 105 is 0.0095
