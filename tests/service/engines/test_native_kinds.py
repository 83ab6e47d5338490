"""Backbones with something beside the tower on the native engine: bits in every company, bfloat16, packed memory."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from adapters_store.backbone import read_bundle
from adapters_store.folding import fold_backbone
from features.index import RawIndex
from features.overlay import IdOverlay, Overlay
from service.engine import Segment
from service.engines.native import EngineAbsent, NativeEngine
from service.engines.onnx import OnnxEngine
from service.errors import EngineFailed
from tests.deltas import random_deltas
from tests.factory import THEMES, common_manifest, make_run, with_golden
from tests.kinds import KINDS
from tests.service.engine_contract import MODES, World, probability
from tests.service.test_deltas import World as DeltaWorld

kernels = pytest.importorskip("espalier_kernels", reason="the extension espalier-kernels is not installed")
HERE = kernels.instruction_sets()
HALF = [name for name in ("amx_bf16", "avx512_bf16") if name in HERE]


@pytest.fixture(scope="module", params=["wide_deep", "deepfm", "dcn"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A run of one kind; its own engine is not used."""
    run = make_run(tmp_path_factory.mktemp(request.param) / "run", sizes=KINDS[request.param])
    backbone = read_bundle(run.folder / "bundle")
    return World(run, backbone, OnnxEngine(backbone, threads=1))


def asked(world: World, engine: NativeEngine, seed: int = 0) -> list[Segment]:
    """Segments of several modes, domains and sizes."""
    rng, own = np.random.default_rng(seed), World(world.run, world.backbone, engine)
    found: list[Segment] = []
    for i in range(6):
        mode, domain = MODES[i % len(MODES)], THEMES[i % 2]
        segments, _ = own.segments(rng, mode, domain, own.prepared(mode, domain), int(rng.integers(1, 40)))
        found += segments
    return found


def bits(logits: list[NDArray[np.float64]]) -> list[bytes]:
    return [part.tobytes() for part in logits]


def test_a_row_has_the_same_bits_in_every_company_tile_and_thread(world: World) -> None:
    """Law: company, order, tile, threads and what is computed once for a request change no bit of a logit."""
    engine = NativeEngine(world.backbone)
    segments = asked(world, engine)
    alone = [engine.run([segment])[0].tobytes() for segment in segments]
    rng = np.random.default_rng(1)
    for _ in range(40):
        chosen = rng.integers(0, len(segments), int(rng.integers(1, 20)))
        assert bits(engine.run([segments[i] for i in chosen])) == [alone[i] for i in chosen]
    forms: tuple[dict[str, Any], ...] = ({"tile_rows": 5}, {"tile_rows": 33, "threads": 3}, {"share": False})
    for form in (*forms, *({"isa": isa} for isa in ("avx2", "avx512") if isa in HERE)):
        other = NativeEngine(world.backbone, **form)
        assert bits(other.run(asked(world, other))) == alone, form


@pytest.mark.parametrize("isa", HALF)
def test_what_stands_beside_the_tower_stays_float32(world: World, isa: str) -> None:
    """Law: in bfloat16 a logit moves by what the tower's products lose, and bits do not depend on company either."""
    exact, half = NativeEngine(world.backbone), NativeEngine(world.backbone, isa=isa, precision="bf16")
    ours, theirs = (np.concatenate(engine.run(asked(world, engine))) for engine in (half, exact))
    assert 0 < np.abs(ours - theirs).max() < 5e-2
    assert np.abs(probability(ours) - probability(theirs)).max() < 2e-2
    segments = asked(world, half)
    alone = [half.run([segment])[0].tobytes() for segment in segments]
    assert bits(half.run(segments)) == alone


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_packed_memory_is_adopted_with_its_overlays_weights(world: World, dtype: Any) -> None:
    """Law: what was packed scores the same from where it lies, an overlay's first-order weights with it."""
    engine, rng = NativeEngine(world.backbone), np.random.default_rng(5)
    field = next(field for field in world.backbone.manifest.fields if field.name == "item_id")
    rows = rng.normal(0, 0.3, (4, field.width)).astype(dtype)
    has_weights = world.run.oracle.first_order
    weights = rng.normal(0, 0.3, 4).astype(dtype) if has_weights else None
    overlay = Overlay({"item": IdOverlay("item_id", RawIndex.from_values(np.arange(4)), rows, weights)})
    folded = replace(fold_backbone(world.backbone), overlay=overlay)
    encoded = world.tables.encode(world.users[0], world.items[:30], THEMES[0], {}).rows
    encoded = replace(encoded, overlaid={"item": rng.integers(-1, 4, encoded.n)})
    prepared = engine.prepare(folded)
    packed = engine.packed(prepared, folded)
    assert packed is not None
    first, again = (engine.run([Segment(encoded, each, engine)])[0] for each in (prepared, engine.adopt(packed)))
    assert first.tobytes() == again.tobytes()
    portable = OnnxEngine(world.backbone, threads=1)
    (expected,) = portable.run([Segment(encoded, portable.prepare(folded), portable)])
    np.testing.assert_allclose(probability(first), probability(expected), rtol=0, atol=2e-6)
    if weights is not None:
        short = IdOverlay("item_id", RawIndex.from_values(np.arange(4)), rows, weights[:3])
        with pytest.raises(EngineFailed, match="one for each row"):
            engine.prepare(replace(folded, overlay=Overlay({"item": short})))


@pytest.mark.parametrize("world", ["deepfm"], indirect=True)
def test_a_delta_without_another_engine_is_refused(world: World) -> None:
    """Law: a delta may change what stands beside the tower, so it is another engine's; the message says which kind."""
    rng, run = np.random.default_rng(4), world.run
    deltas = random_deltas(run.oracle, rng)
    sizes = next(KINDS[kind] for kind in KINDS if kind == world.backbone.manifest.kind)
    said = common_manifest(run.oracle, sizes, THEMES[1], run.natural_division) | {"kind": "delta", "ranks": {}}
    body = with_golden(run.oracle, rng, said, deltas, {}, None)
    with pytest.raises(EngineFailed, match="of kind 'mlp' alone"):
        DeltaWorld(run, world.backbone, NativeEngine(world.backbone)).slot(body)


@pytest.mark.parametrize(
    ("kind", "name", "fault"),
    [
        ("wide_deep", "first_order.item_id", "first-order weights of field item_id have a wrong length"),
        ("dcn", "cross.0.weight", "a cross layer is not as wide as the inputs"),
        ("deepfm", "factor.", "a factor has a shape that does not fit its field"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    kind: str, name: str, fault: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Law: the extension reads nothing outside the arrays that it is given."""
    backbone = read_bundle(make_run(tmp_path_factory.mktemp(kind) / "run", sizes=KINDS[kind]).folder / "bundle")
    changed = copy(backbone)
    name = next(each for each in backbone.weights if each.startswith(name))
    changed.weights = {**backbone.weights, name: backbone.weights[name][:-1]}
    with pytest.raises(EngineAbsent, match=fault):
        NativeEngine(changed)
