"""Every kind of backbone is served as the oracle scores it, with adapters of every mode that are not empty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adapters_store.artifact import decode_adapter
from adapters_store.backbone import Backbone, read_bundle
from adapters_store.errors import DoesNotFit
from adapters_store.folding import fold_auxiliary_only
from adapters_store.verification import verify_adapter, verify_backbone
from benchmarks.oracle_files import AdapterFile
from benchmarks.oracle_masked import masked_logits
from service.engine import Segment
from service.engines.native import EngineAbsent, NativeEngine
from service.engines.onnx import OnnxEngine
from tests.deltas import random_deltas, random_overlay, with_overlay
from tests.factory import THEMES, common_manifest, make_run, with_golden
from tests.kinds import KINDS
from tests.service.engine_contract import MODES, World, probability
from tests.service.test_deltas import World as DeltaWorld
from tests.service.test_deltas import draw

TOLERANCE = 2e-6


NATIVE = [f"{kind} native" for kind in ("wide_deep", "deepfm", "dcn", "mlp-without-norm")]


@pytest.fixture(scope="module", params=[*sorted(KINDS), *NATIVE])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A run of one kind, and the onnx engine, or the native one where it has the kind."""
    kind, _, engine = request.param.partition(" ")
    run = make_run(tmp_path_factory.mktemp(kind) / "run", sizes=KINDS[kind])
    backbone = read_bundle(run.folder / "bundle")
    portable = OnnxEngine(backbone, threads=1)
    if not engine:
        return World(run, backbone, portable)
    try:
        return World(run, backbone, NativeEngine(backbone, dense=portable))
    except EngineAbsent as absent:
        if "not installed" not in str(absent):
            raise
        pytest.skip(str(absent))


def test_the_bundle_is_reproduced(world: World) -> None:
    """Law: the golden rows of every kind's bundle hold."""
    verify_backbone(world.backbone, world.engine.logits)


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_equals_the_oracle(world: World, mode: str) -> None:
    """Law: scores of every mode and combination are the oracle's, and adapters move them."""
    rng = np.random.default_rng(1)
    for domain in THEMES[:2]:
        prepared = world.prepared(mode, domain)
        for _ in range(6):
            segments, expected = world.segments(rng, mode, domain, prepared, 9)
            scores = probability(np.concatenate(world.engine.run(segments)))
            np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE)
    user, items = str(world.users[0]), world.items[:20]
    adapter = AdapterFile(world.path_of(mode, THEMES[0]))
    adapted = world.run.oracle.score(user, THEMES[0], items, adapter, world.run.auxiliaries(), world.run.fusion())
    assert np.abs(adapted - world.run.oracle.score(user, THEMES[0], items)).max() > 1e-2


def test_auxiliaries_alone_equal_the_oracle(world: World) -> None:
    """Law: two adapters under a fusion, no natural one among them, score as the oracle does in every kind."""
    oracle, names = world.run.oracle, ("segment-a", "segment-b")
    files = [world.run.auxiliaries()[name] for name in names]
    for file in files:
        file.manifest["fusion"] = world.fusion.revision
    fusion = world.run.fusion()
    assert fusion is not None
    encoded = world.tables.encode(world.users[0], world.items[:30], THEMES[0], {})
    x = oracle.vectors(str(world.users[0]), world.items[:30], THEMES[0])
    expected = masked_logits(oracle, x, files, {world.fusion.revision: fusion})
    folded = fold_auxiliary_only(world.backbone, [world.auxiliaries[name] for name in names], world.fusion)
    (logits,) = world.engine.run([Segment(encoded.rows, world.engine.prepare(folded), world.engine)])
    np.testing.assert_allclose(probability(logits), probability(expected), rtol=0, atol=TOLERANCE)


def test_every_adapted_module_moves_the_scores(world: World) -> None:
    """Law: the LoRA of each adaptable module reaches the logit, those of the interaction included."""
    oracle, path = world.run.oracle, world.path_of("single", THEMES[0])
    x = oracle.vectors(str(world.users[1]), world.items[:30], THEMES[0])
    whole = oracle.logits(x, AdapterFile(path))
    assert set(AdapterFile(path).manifest["ranks"]) == set(world.backbone.modules)
    for module in world.backbone.modules:
        without = AdapterFile(path)
        for part in ("up", "shift"):
            without.tensors[f"{module}.{part}"] = np.zeros_like(without.tensors[f"{module}.{part}"])
        assert np.abs(oracle.logits(x, without) - whole).max() > 1e-6, module


def test_the_bundle_is_read_from_its_folder(world: World) -> None:
    """Law: a bundle of each kind is read back with the weights, modules and form that were written."""
    again = read_bundle(Path(world.run.folder / "bundle"))
    assert isinstance(again, Backbone)
    assert again.modules == world.backbone.modules
    assert again.manifest == world.backbone.manifest


def test_an_overlay_equals_the_oracle(world: World) -> None:
    """Law: an id overlay of a fused adapter is scored as the oracle does, first-order weights of its ids included."""
    rng, run = np.random.default_rng(3), world.run
    body = with_overlay(run, rng, world.path_of("attention", THEMES[0]), random_overlay(run.oracle, rng))
    names = set(AdapterFile(body).tensors)
    assert ("overlay.user.first_order" in names) == run.oracle.first_order
    assert_as_expected(DeltaWorld(run, world.backbone, world.engine), body, THEMES[0], rng)


@pytest.mark.parametrize("world", ["deepfm", "deepfm native"], indirect=True)
def test_a_delta_of_a_kind_equals_the_oracle(world: World) -> None:
    """Law: a delta of every weight and table, first-order weights included, is scored as the oracle does."""
    rng, run = np.random.default_rng(4), world.run
    deltas = random_deltas(run.oracle, rng, tables=("user_id", "tags", "theme"))
    assert any(name.startswith("delta.first_order.") for name in deltas)
    sizes = KINDS["deepfm"]
    said = common_manifest(run.oracle, sizes, THEMES[1], run.natural_division) | {"kind": "delta", "ranks": {}}
    body = with_golden(run.oracle, rng, said, deltas | random_overlay(run.oracle, rng), {}, None)
    assert_as_expected(DeltaWorld(run, world.backbone, world.engine), body, THEMES[1], rng)


def assert_as_expected(served: DeltaWorld, body: bytes, domain: str, rng: np.random.Generator) -> None:
    """Requests of known and unknown users and items have the oracle's scores."""
    slot = served.slot(body)
    for _ in range(12):
        user, items = draw(rng, served.run)
        segments = served.asked(slot, domain, user, items)
        scores, places = probability(np.concatenate(served.engine.run(segments))), np.concatenate(served.places)
        np.testing.assert_allclose(scores, served.expected(body, domain, user, items)[places], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("world", ["deepfm"], indirect=True)
def test_an_overlay_without_its_first_order_weights_is_refused(world: World) -> None:
    """Law: where the backbone has first-order weights an overlay must bring them; the tensor is named."""
    rng, run = np.random.default_rng(5), world.run
    overlay = random_overlay(run.oracle, rng)
    body = with_overlay(run, rng, world.path_of("single", THEMES[0]), overlay)
    adapter = decode_adapter(body)
    del adapter.tensors["overlay.user.first_order"]
    with pytest.raises(DoesNotFit, match=r"overlay\.user\.first_order' is missing"):
        verify_adapter(adapter, world.backbone, {}, None, world.engine.logits)
