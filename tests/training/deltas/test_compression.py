"""Compressed deltas: exact where a LoRA can be, gated where it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from adapters_store.artifact import decode_adapter
from adapters_store.verification import verify_adapter
from benchmarks.oracle import Oracle
from benchmarks.oracle_files import AdapterFile
from network.backbone import Backbone
from network.inputs import NetworkShape
from service.engines.onnx import OnnxEngine
from tests.training.deltas.worlds import DOMAIN, DeltaWorld, logits_by
from training.artifacts_of import Notes
from training.deltas.compressed import compressed_artifact
from training.deltas.compression import BOUND, Compressed, compress
from training.errors import CompressionRefused


def compressed(world: DeltaWorld, theta_i: Mapping[str, Tensor], **options: object) -> Compressed:
    evaluate = world.validation(theta_i)
    return compress(world.backbone, world.fields, world.vocabulary, theta_i, evaluate, **options)  # type: ignore[arg-type]


def test_a_delta_of_low_rank_becomes_an_adapter_within_the_bound(world: DeltaWorld) -> None:
    """Law: the LoRA is accepted as any adapter is, golden logits are the oracle's, the manifest has the loss."""
    theta_i = world.delta(3, rank=2, tables=True)
    found = compressed(world, theta_i)
    assert found.ranks.keys() == {"tower.0", "tower.1"}
    assert max(found.ranks.values()) <= 2
    content = compressed_artifact(world.source("float16"), DOMAIN, found, Notes({"auc": 0.8}))
    adapter, file = decode_adapter(content), AdapterFile(content)
    verify_adapter(adapter, world.bundle, {}, None, OnnxEngine(world.bundle).logits, domain="theme-2")
    expected = Oracle(world.folder / "bundle").golden_logits(file)
    np.testing.assert_allclose(file.tensors["golden.logits"], expected, rtol=0, atol=1e-10)
    record = adapter.manifest.metrics["compression"]
    assert record["auc_loss"] <= record["bound"] == BOUND
    assert record["auc_loss"] == pytest.approx(record["auc_delta"] - record["auc"])
    assert adapter.manifest.metrics["auc"] == 0.8
    assert set(file.overlay) == {"user", "item"}
    assert np.all(file.tensors["tower.0.scale"] == 1.0)


def test_the_recorded_loss_is_that_of_the_artifact(world: DeltaWorld) -> None:
    """Law: who scores the validation rows by the file's own tensors finds the AUC that the manifest records."""
    theta_i = world.delta(3, rank=2)
    evaluate = world.validation(theta_i)
    found = compress(world.backbone, world.fields, world.vocabulary, theta_i, evaluate)
    t = found.tensors
    weights = world.theta_s | {name: value for name, value in t.items() if ".norm." in name}
    for module in found.ranks:
        weights[f"{module}.weight"] = (
            weights[f"{module}.weight"] + t[f"{module}.up"].float() @ t[f"{module}.down"].float()
        )
        weights[f"{module}.bias"] = weights[f"{module}.bias"] + t[f"{module}.shift"]
    assert evaluate(weights) == pytest.approx(found.record["auc"], abs=1e-6)


def test_no_rank_can_be_lowered_within_the_bound(world: DeltaWorld) -> None:
    """Law: each layer's rank is the smallest that the gate allows, the other layers being as chosen."""
    theta_i = world.delta(4, spread=0.5)
    bound = 0.01
    found = compressed(world, theta_i, bound=bound, dtype="float32")
    assert any(rank > 1 for rank in found.ranks.values())
    evaluate = world.validation(theta_i)
    for module, rank in found.ranks.items():
        for less in range(1, rank):
            auc = evaluate(world.whole(truncated(theta_i, {**found.ranks, module: less})))
            assert auc is not None
            assert found.record["auc_delta"] - auc > bound


def truncated(theta_i: Mapping[str, Tensor], ranks: Mapping[str, int]) -> dict[str, Tensor]:
    """A delta whose weights are cut to these ranks, by numpy's SVD."""
    cut = dict(theta_i)
    for module, rank in ranks.items():
        u, s, v = np.linalg.svd(theta_i[f"{module}.weight"].double().numpy(), full_matrices=False)
        cut[f"{module}.weight"] = torch.from_numpy((u[:, :rank] * s[:rank]) @ v[:rank]).float()
    return cut


def shapes(own: NetworkShape) -> dict[str, NetworkShape]:
    return {
        "mlp": own,
        "mlp without norms": replace(own, norm=False),
        "dcn_v2": replace(own, kind="dcn_v2", cross_layers=2),
        "autoint": replace(own, kind="autoint", attention_layers=1),
    }


@pytest.mark.parametrize("name", ["mlp", "mlp without norms", "dcn_v2", "autoint"])
def test_at_full_ranks_and_float32_nothing_is_lost(world: DeltaWorld, name: str) -> None:
    """Law: weights, biases, norms and the output layer all fit a LoRA, if no unit's sign changes: logits are equal."""
    torch.manual_seed(0)
    backbone = Backbone(replace(shapes(world.backbone.shape)[name], embedding_std=1.0)).freeze()
    theta_s, g = backbone.weights(), torch.Generator().manual_seed(1)
    theta_i = {n: 0.2 * v.abs().clamp(min=0.1) * torch.rand(v.shape, generator=g) for n, v in theta_s.items()}
    units = backbone.shape.beside_width
    theta_i["output.weight"] = 0.5 * theta_s["output.weight"] * torch.rand(theta_s["output.weight"].shape, generator=g)
    theta_i["output.weight"][0, :units] = 0.0
    theta_i = {n: v for n, v in theta_i.items() if not n.startswith(("embedding.", "factor."))}
    seen: list[Mapping[str, Tensor]] = []

    def perfect(weights: Mapping[str, Tensor]) -> float:
        """Only the very ranks of the whole delta lose nothing."""
        seen.append(weights)
        return 1.0 if len(seen) <= 2 else 0.0

    found = compress(backbone, world.fields, world.vocabulary, theta_i, perfect, dtype="float32")
    assert found.record["dropped"] == []
    whole, lora = (logits_by(backbone, weights, world.run) for weights in seen[:2])
    np.testing.assert_allclose(lora, whole, rtol=0, atol=2e-5)
    assert np.abs(whole - logits_by(backbone, theta_s, world.run)).max() > 0.01


def test_what_no_lora_holds_is_named_when_it_costs_too_much(world: DeltaWorld) -> None:
    """Law: a delta that lives in a table without ids is refused, with the loss, the ranks and what was dropped."""
    large = 5 * torch.randn(world.theta_s["embedding.tags"].shape, generator=torch.Generator().manual_seed(0))
    theta_i = world.delta(5, rank=1) | {"embedding.tags": large}
    with pytest.raises(CompressionRefused, match=r"loses 0\.\d+ validation AUC.*dropped.*embedding\.tags.*publish the"):
        compressed(world, theta_i)
    kept = compressed(world, theta_i, bound=1.0)
    assert kept.record["dropped"] == ["embedding.tags"]
    assert all(rank == 1 for rank in kept.ranks.values())


def test_one_class_has_no_gate(world: DeltaWorld) -> None:
    """Law: without an AUC nothing is compressed."""
    with pytest.raises(CompressionRefused, match="one class only"):
        compress(world.backbone, world.fields, world.vocabulary, world.delta(), lambda weights: None)


def test_an_overlay_alone_needs_no_module(world: DeltaWorld) -> None:
    """Law: a delta of id embeddings alone becomes an overlay beside a LoRA that changes nothing."""
    tables = {n: v for n, v in world.delta(6, tables=True).items() if n.startswith("embedding.")}
    found = compressed(world, tables)
    assert found.ranks == {"tower.0": 1}
    content = compressed_artifact(world.source("float16"), DOMAIN, found, Notes())
    verify_adapter(decode_adapter(content), world.bundle, {}, None, OnnxEngine(world.bundle).logits)


def test_the_domains_own_row_is_held_exactly(world: DeltaWorld) -> None:
    """Law: what the domain's own embedding changes goes into the shift, no row of the domain scores otherwise."""
    g = torch.Generator().manual_seed(7)
    table = world.theta_s["embedding.theme"]
    theta_i = {
        "embedding.theme": torch.randn(table.shape, generator=g),
        "tower.0.weight": 0.3 * torch.randn(world.theta_s["tower.0.weight"].shape, generator=g),
    }
    seen: list[Mapping[str, Tensor]] = []

    def perfect(weights: Mapping[str, Tensor]) -> float:
        seen.append(weights)
        return 1.0 if len(seen) <= 2 else 0.0

    found = compress(
        world.backbone, world.fields, world.vocabulary, theta_i, perfect, domain="theme-2", dtype="float32"
    )
    assert found.record["dropped"] == []
    assert torch.equal(seen[1]["embedding.theme"], table)
    column = [field.name for field in world.fields if field.kind == "sparse"].index("theme")
    batch = world.run.rows.batch(torch.arange(len(world.run.rows.label)))
    own = (batch.sparse[:, column] == int(world.vocabulary.rows("theme", ["theme-2"])[0])).numpy()
    assert own.any()
    whole, lora = (logits_by(world.backbone, weights, world.run) for weights in seen[:2])
    np.testing.assert_allclose(lora[own], whole[own], rtol=0, atol=2e-5)
    assert np.abs(whole - logits_by(world.backbone, world.theta_s, world.run))[own].max() > 0.01
    without = compress(world.backbone, world.fields, world.vocabulary, theta_i, lambda weights: 1.0)
    assert without.record["dropped"] == ["embedding.theme"]
