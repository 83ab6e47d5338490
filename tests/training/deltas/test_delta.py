"""Deltas and row-sparse overlays as artifacts: accepted, and equal to the oracle and to each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adapters_store.artifact import decode_adapter
from adapters_store.errors import BadValue
from adapters_store.verification import verify_adapter
from benchmarks.oracle import Oracle
from benchmarks.oracle_files import AdapterFile
from service.engines.onnx import OnnxEngine
from tests.training.deltas.worlds import DOMAIN, DeltaWorld
from training.artifacts_of import Notes
from training.deltas.delta import delta_artifact
from training.deltas.overlay import overlay_rows, row_sparse
from training.golden import Dtype


@pytest.fixture(scope="module")
def engine(world: DeltaWorld) -> OnnxEngine:
    return OnnxEngine(world.bundle)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("form", ["dense", "row-sparse"])
def test_a_delta_is_accepted_and_its_golden_logits_are_the_oracles(
    world: DeltaWorld, engine: OnnxEngine, dtype: Dtype, form: str
) -> None:
    """Law: dense or row-sparse, fp32 or fp16, the writer's golden logits come from the tensors as stored."""
    theta_i = world.delta(tables=True)
    overlays, rest = row_sparse(world.fields, world.vocabulary, world.theta_s, theta_i)
    chosen = (theta_i, []) if form == "dense" else (rest, overlays)
    content = delta_artifact(world.source(dtype), DOMAIN, chosen[0], Notes(training={"seed": 0}), chosen[1])
    adapter, file = decode_adapter(content), AdapterFile(content)
    verify_adapter(adapter, world.bundle, {}, None, engine.logits, domain="theme-2")
    expected = Oracle(world.folder / "bundle").golden_logits(file)
    np.testing.assert_allclose(file.tensors["golden.logits"], expected, rtol=0, atol=1e-10)
    assert adapter.manifest.training == {"seed": 0}
    again = delta_artifact(world.source(dtype), DOMAIN, chosen[0], Notes(training={"seed": 0}), chosen[1])
    assert again == content


def test_row_sparse_scores_every_known_id_as_the_dense_delta(world: DeltaWorld) -> None:
    """Law: moving an id table's changed rows into an overlay changes no score of an id that the backbone knows."""
    theta_i, oracle = world.delta(tables=True), Oracle(world.folder / "bundle")
    overlays, rest = row_sparse(world.fields, world.vocabulary, world.theta_s, theta_i)
    dense, sparse = (
        AdapterFile(delta_artifact(world.source(), DOMAIN, delta, Notes(), more))
        for delta, more in ((theta_i, []), (rest, overlays))
    )
    items = [f"item-{i}" for i in range(1, 60)]
    for user in ("1", "7", "20"):
        np.testing.assert_allclose(
            oracle.score(user, "theme-2", items, sparse), oracle.score(user, "theme-2", items, dense), atol=1e-7
        )
    untouched = [n for n in sparse.tensors if n.startswith("delta.embedding.")]
    assert untouched == []


def test_row_sparse_takes_exactly_the_changed_rows(world: DeltaWorld) -> None:
    """Law: the overlay has each changed row of an id table but row 0; the rest keeps everything else."""
    theta_i = world.delta(tables=True)
    theta_i["embedding.user_id"][0] = 1.0
    theta_i["embedding.tags"] = torch.ones_like(world.theta_s["embedding.tags"])
    overlays, rest = row_sparse(world.fields, world.vocabulary, world.theta_s, theta_i)
    assert {overlay.side for overlay in overlays} == {"user", "item"}
    assert rest.keys() == theta_i.keys() - {"embedding.user_id", "embedding.item_id"}
    for overlay in overlays:
        name = f"embedding.{overlay.field}"
        changed = [row for row in range(1, len(theta_i[name])) if bool((theta_i[name][row] != 0).any())]
        assert len(overlay.ids) == len(overlay.rows) == len(changed)
        for row in changed:
            (position,) = overlay.ids.find([world.vocabulary[overlay.field].raw(row - 1)])
            torch.testing.assert_close(overlay.rows[position], world.theta_s[name][row] + theta_i[name][row])
    assert row_sparse(world.fields, world.vocabulary, world.theta_s, {}) == ([], {})


def test_overlay_rows_follow_their_ids(world: DeltaWorld) -> None:
    """Law: whatever the order and form of the ids, each keeps its row; an id that stands twice is refused."""
    field = next(field for field in world.fields if field.name == "user_id")
    for ids in ([30, 4, 11], ["b", "a", 7], ["10", "9", "x"]):
        overlay = overlay_rows(field, ids, torch.tensor([[0.0], [1.0], [2.0]]))
        found = overlay.rows[torch.from_numpy(overlay.ids.find(ids)), 0]
        assert found.tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="1 ids of field 'user_id' occur twice"):
        overlay_rows(field, [7, "7"], torch.zeros(2, 1))


def test_unseen_ids_are_held_by_golden_rows_too(world: DeltaWorld, engine: OnnxEngine) -> None:
    """Law: an overlay of ids that no row of the data names is verified like any other."""
    field = next(field for field in world.fields if field.name == "item_id")
    rows = torch.randn((3, field.width), generator=torch.Generator().manual_seed(0))
    overlay = overlay_rows(field, ["new-1", "new-2", "new-3"], rows)
    content = delta_artifact(world.source("float16"), DOMAIN, {}, Notes(), [overlay])
    verify_adapter(decode_adapter(content), world.bundle, {}, None, engine.logits)
    file, oracle = AdapterFile(content), Oracle(world.folder / "bundle")
    np.testing.assert_allclose(file.tensors["golden.logits"], oracle.golden_logits(file), rtol=0, atol=1e-10)
    assert set(file.tensors["golden.overlay.item"].tolist()) >= {0, 1, 2}


def test_what_is_zero_is_left_out_and_what_overflows_refused(world: DeltaWorld) -> None:
    """Law: a tensor that changes nothing costs nothing; one beyond fp16 is refused by name."""
    theta_i = world.delta() | {"tower.0.weight": torch.zeros_like(world.theta_s["tower.0.weight"])}
    file = AdapterFile(delta_artifact(world.source("float16"), DOMAIN, theta_i, Notes()))
    assert "delta.tower.0.weight" not in file.tensors
    assert "delta.tower.1.weight" in file.tensors
    content = delta_artifact(world.source("float16"), DOMAIN, {}, Notes())
    oracle = Oracle(world.folder / "bundle")
    np.testing.assert_array_equal(
        oracle.score("1", "theme-2", ["item-1"], AdapterFile(content)), oracle.score("1", "theme-2", ["item-1"])
    )
    theta_i["tower.1.bias"] = torch.full_like(world.theta_s["tower.1.bias"], 1e6)
    with pytest.raises(BadValue, match=r"delta\.tower\.1\.bias"):
        delta_artifact(world.source("float16"), DOMAIN, theta_i, Notes())
