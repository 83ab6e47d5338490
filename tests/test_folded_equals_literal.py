"""What the service computes from folded arrays is what the papers' equations say, for every mode and combination."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from adapters_store.artifact import decode_adapter, decode_fusion
from adapters_store.backbone import read_bundle
from adapters_store.folding import Folded, combinations, fold_adapter, fold_backbone
from benchmarks.forge import Run
from benchmarks.oracle import Oracle
from benchmarks.oracle_files import AdapterFile

Array = np.ndarray[Any, Any]


def folded_logits(oracle: Oracle, x: Array, folded: Folded) -> Array:
    """The formula of docs/architecture.md, "Folded module", in float64."""
    for layer in range(oracle.layers):
        m = folded.modules[f"tower.{layer}"]
        h0 = x @ oracle.weights[f"tower.{layer}.weight"].T + oracle.weights[f"tower.{layer}.bias"]
        q, z = x @ m.query.T + m.query_shift, x @ m.down.T
        energy = (z * (q @ m.key)) @ m.group.T + q @ m.key_shift.T
        w = np.exp(energy - energy.max(1, keepdims=True))
        w /= w.sum(1, keepdims=True)
        h = h0 + (z * (w @ m.group)) @ m.up.T + w @ m.shift
        x = np.maximum(h * m.norm_scale + m.norm_shift, 0)
    return np.asarray((x @ oracle.weights["output.weight"].T + oracle.weights["output.bias"])[:, 0])


def inputs(oracle: Oracle, domain: str) -> Array:
    return oracle.vectors("3", [f"item-{i}" for i in range(1, 40)], domain, {"hour": 3, "age_days": 41.5})


@pytest.mark.parametrize("name", ["random_run", "three_way_run"])
@pytest.mark.parametrize("mode", ["attention", "add", "avg", "single"])
def test_folded_equals_literal(name: str, mode: str, request: pytest.FixtureRequest) -> None:
    """Law: folding changes no logit by more than the rounding of the folded arrays to float32, masked ones included."""
    run: Run = request.getfixturevalue(name)
    oracle, backbone = run.oracle, read_bundle(run.folder / "bundle")
    files = run.auxiliaries()
    auxiliaries = {d: decode_adapter((run.folder / "adapters" / f"{d}.safetensors").read_bytes()) for d in files}
    fusion = decode_fusion((run.folder / "fusion.safetensors").read_bytes())
    checked = 0
    for domain, path in run.natural(mode).items():
        adapter, literal = decode_adapter(path.read_bytes()), AdapterFile(path)
        pinned = {d: auxiliaries[d] for d in adapter.manifest.fuses}
        x = inputs(oracle, domain)
        for combination in combinations(adapter, pinned):
            folded = fold_adapter(backbone, adapter, pinned, fusion if mode == "attention" else None, combination)
            present = [files[d] for d in combination if d is not None]
            prefix = oracle.norm_of(literal, combination)
            expected = oracle.logits(x, literal, present, run.fusion(), prefix)
            np.testing.assert_allclose(folded_logits(oracle, x, folded), expected, atol=5e-6)
            assert np.abs(expected - oracle.logits(x)).max() > 1e-2
            checked += 1
    assert checked >= len(run.domains)


def test_folded_backbone_is_the_backbone(random_run: Run) -> None:
    """Law: the zero row of the folded form leaves the backbone's logits as they are."""
    oracle, backbone = random_run.oracle, read_bundle(random_run.folder / "bundle")
    x = inputs(oracle, "theme-2")
    np.testing.assert_allclose(folded_logits(oracle, x, fold_backbone(backbone)), oracle.logits(x), atol=5e-6)
