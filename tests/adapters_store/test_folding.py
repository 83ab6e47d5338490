"""Folding is exact: whatever an engine computes from a fold is what the papers' equations say."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from adapters_store.artifact import Adapter, decode_adapter, decode_fusion
from adapters_store.backbone import Backbone
from adapters_store.errors import BadValue, MissingPin
from adapters_store.folding import (
    FOLDED_PARTS,
    combinations,
    fold_adapter,
    fold_auxiliary_only,
    fold_backbone,
)
from adapters_store.manifest import Calibration
from adapters_store.tensors import Array
from tests.adapters_store.world import DIVISIONS, EPS, FoldEngine, World, encoded, f64, literal_logits

CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def test_folded_backbone_equals_the_literal_backbone(world: World) -> None:
    """Law: the backbone, said as one zero LoRA, is the backbone."""
    rows = world.rows(50)
    found = FoldEngine(world.backbone).logits(rows, fold_backbone(world.backbone))
    np.testing.assert_allclose(found, literal_logits(world.backbone.weights, rows), **CLOSE)


def test_folded_lora_equals_the_literal_one(world: World) -> None:
    """Law: a single LoRA folds to Eq. 7 to 9."""
    manifest, tensors = world.lora_parts("theme-1", "theme")
    adapter, rows = decode_adapter(encoded(manifest, tensors)), world.rows(50)
    assert combinations(adapter, {}) == [()]
    found = FoldEngine(world.backbone).logits(rows, fold_adapter(world.backbone, adapter, {}, None, ()))
    np.testing.assert_allclose(found, literal_logits(world.backbone.weights, rows, [tensors]), **CLOSE)


@pytest.mark.parametrize("divisor", ["r", "sqrt_r"])
@pytest.mark.parametrize("mode", ["attention", "add", "avg"])
@pytest.mark.parametrize("divisions", [("gender",), ("gender", "shelf")])
def test_every_combination_equals_the_literal_equations(
    world: World, divisions: tuple[str, ...], mode: str, divisor: str
) -> None:
    """Law: for m = 1 to 3, mixed ranks, masked divisions and norms that fall back, folded equals Eq. 7 to 11."""
    auxiliaries = world.auxiliaries(*divisions)
    fusion = decode_fusion(world.fusion(divisor)) if mode == "attention" else None
    pairs = [("gender-f",)] if len(divisions) == 1 else [("gender-f", "shelf-x"), ("gender-m", None), (None, "shelf-y")]
    manifest, tensors = world.fused_parts("theme-1", mode, auxiliaries, fusion, pairs)
    adapter, rows = decode_adapter(encoded(manifest, tensors)), world.rows(40)
    found = combinations(adapter, auxiliaries)
    assert len(found) == len(set(found)) == 3 ** len(divisions)
    for combination in found:
        folded = fold_adapter(world.backbone, adapter, auxiliaries, fusion, combination)
        literal = world.literal(manifest, tensors, auxiliaries, fusion, combination, rows)
        np.testing.assert_allclose(FoldEngine(world.backbone).logits(rows, folded), literal, **CLOSE)
        assert {len(module.shift) for module in folded.modules.values()} == {
            1 + sum(d is not None for d in combination)
        }


def test_what_a_lora_keeps_is_of_its_factor_and_fusion(world: World) -> None:
    """Law: pins that other adapters folded before, by another fusion or mode, give what freshly read ones do."""
    auxiliaries = world.auxiliaries("gender", "shelf")
    fusions = [decode_fusion(world.fusion(divisor, rank)) for divisor, rank in (("r", 2), ("sqrt_r", 3))]
    modes = [("attention", fusions[0]), ("attention", fusions[1]), ("add", None), ("avg", None)]
    adapters = [
        (decode_adapter(encoded(*world.fused_parts("theme-1", mode, auxiliaries, fusion))), fusion)
        for mode, fusion in modes
    ]
    for adapter, fusion in [*adapters, adapters[0]]:
        for combination in combinations(adapter, auxiliaries):
            found = fold_adapter(world.backbone, adapter, auxiliaries, fusion, combination)
            fresh = {name: replace(pin) for name, pin in auxiliaries.items()}
            expected = fold_adapter(world.backbone, replace(adapter), fresh, fusion, combination)
            for module, parts in expected.modules.items():
                for name, array in parts.arrays().items():
                    assert np.array_equal(found.modules[module].arrays()[name], array), (combination, module, name)
    kept = {len(pin.keys) for pin in auxiliaries.values()}
    assert kept == {len(world.backbone.modules)}  # of one fusion, however many there were


def test_fold_has_the_contracts_shapes_and_layout(world: World) -> None:
    """Law: every folded array is contiguous float32 of the shape in docs/architecture.md."""
    auxiliaries, fusion = world.auxiliaries("gender"), decode_fusion(world.fusion(rank=3))
    adapter = decode_adapter(encoded(*world.fused_parts("theme-1", "attention", auxiliaries, fusion)))
    folded = fold_adapter(world.backbone, adapter, auxiliaries, fusion, ("gender-f",))
    d, k, m, ranks, rf = 6, 8, 2, 3 + 2, 3
    shapes = [(ranks, k), (d, ranks), (m, d), (rf, k), (rf,), (rf, ranks), (m, rf), (m, ranks), (d,), (d,)]
    arrays = folded.modules["tower.0"].arrays()
    assert tuple(arrays) == FOLDED_PARTS
    assert [array.shape for array in arrays.values()] == shapes
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in arrays.values())
    assert (folded.slope, folded.intercept) == (1.25, -0.5)
    assert folded.nbytes == sum(a.nbytes for module in folded.modules.values() for a in module.arrays().values())


def test_all_adapters_of_a_fusion_share_its_folded_queries(world: World) -> None:
    """Law: WQ W0 depends on backbone and fusion alone, so it is held once however many adapters there are."""
    auxiliaries, fusion = world.auxiliaries("gender"), decode_fusion(world.fusion())
    folds = [
        fold_adapter(
            world.backbone,
            decode_adapter(encoded(*world.fused_parts(domain, "attention", auxiliaries, fusion))),
            auxiliaries,
            fusion,
            ("gender-f",),
        )
        for domain in DIVISIONS["theme"]
    ]
    assert folds[0].modules["tower.1"].query is folds[1].modules["tower.1"].query


def test_module_without_lora_is_the_backbones(world: World) -> None:
    """Law: `target_modules` may leave a layer out; it stays as the backbone has it, in the same form."""
    tensors = {k: v for k, v in world.lora_tensors("theme").items() if not k.startswith("tower.1")}
    manifest = world.manifest("theme-1", "theme") | {"ranks": {"tower.0": 3}}
    adapter = decode_adapter(encoded(manifest, tensors | world.golden() | {"golden.logits": np.zeros(12)}))
    folded = fold_adapter(world.backbone, adapter, {}, None, ())
    untouched = fold_backbone(world.backbone).modules["tower.1"]
    for part, array in folded.modules["tower.1"].arrays().items():
        np.testing.assert_array_equal(array, getattr(untouched, part))


def test_without_a_natural_adapter_the_backbones_calibration_holds(world: World) -> None:
    """Law: the backbone and auxiliaries alone are calibrated by the bundle, which does nothing if it says nothing."""
    line = Calibration(slope=1.5, intercept=-2.0)
    manifest = world.backbone.manifest.model_copy(update={"calibration": line})
    files = {name: world.backbone.file(name) for name in world.backbone.files}
    shifted, pair = Backbone(world.backbone.revision, manifest, files), pair_of(world)
    for made in (fold_backbone, partial(fold_auxiliary_only, auxiliaries=pair)):
        assert (made(shifted).slope, made(shifted).intercept) == (1.5, -2.0)
        assert (made(world.backbone).slope, made(world.backbone).intercept) == (1.0, 0.0)


def test_auxiliary_only_averages_loras_and_folded_norms(world: World) -> None:
    """Law: without a natural adapter, auxiliaries count alike; norms are the average of their folded maps."""
    pair = pair_of(world)
    folded, rows = fold_auxiliary_only(world.backbone, pair), world.rows(30)
    loras = [pair[0].tensors | averaged_norms(world, pair), pair[1].tensors]
    literal = literal_logits(world.backbone.weights, rows, loras, "avg")
    np.testing.assert_allclose(FoldEngine(world.backbone).logits(rows, folded), literal, **CLOSE)
    one = FoldEngine(world.backbone).logits(rows, fold_auxiliary_only(world.backbone, pair[:1]))
    np.testing.assert_allclose(one, literal_logits(world.backbone.weights, rows, [pair[0].tensors]), **CLOSE)
    none = fold_auxiliary_only(world.backbone, [])
    np.testing.assert_allclose(
        FoldEngine(world.backbone).logits(rows, none), literal_logits(world.backbone.weights, rows), **CLOSE
    )


@pytest.mark.parametrize("divisor", ["r", "sqrt_r"])
def test_auxiliary_only_is_weighed_by_a_fusion(world: World, divisor: str) -> None:
    """Law: with a fusion it is Eq. 10 over the auxiliaries, the natural division masked; one alone has weight 1."""
    pair, fusion, rows = pair_of(world), decode_fusion(world.fusion(divisor)), world.rows(30)
    loras = [pair[0].tensors | averaged_norms(world, pair), pair[1].tensors]
    literal = literal_logits(world.backbone.weights, rows, loras, "attention", fusion)
    found = FoldEngine(world.backbone).logits(rows, fold_auxiliary_only(world.backbone, pair, fusion))
    np.testing.assert_allclose(found, literal, **CLOSE)
    assert np.abs(found - literal_logits(world.backbone.weights, rows, loras, "avg")).max() > 1e-3
    alone, unweighed = (fold_auxiliary_only(world.backbone, pair[:1], one) for one in (fusion, None))
    for module, folded in alone.modules.items():
        for part, array in folded.arrays().items():
            np.testing.assert_array_equal(array, getattr(unweighed.modules[module], part))


def pair_of(world: World) -> list[Adapter]:
    """An adapter of each auxiliary division."""
    return [world.auxiliaries("gender")["gender-f"], world.auxiliaries("shelf")["shelf-y"]]


def averaged_norms(world: World, adapters: list[Adapter]) -> dict[str, Array]:
    """Norms whose maps are the average of the adapters' folded ones."""
    norms: dict[str, Array] = {}
    for module in world.backbone.modules:
        maps = [
            (f64(one.tensors, f"{module}.norm.weight") / np.sqrt(f64(one.tensors, f"{module}.norm.var") + EPS), one)
            for one in adapters
        ]
        offsets = [f64(o.tensors, f"{module}.norm.bias") - g * f64(o.tensors, f"{module}.norm.mean") for g, o in maps]
        # the same function on moments 0 and 1: what "re-expressed" leaves free
        norms[f"{module}.norm.weight"] = np.mean([g for g, _ in maps], axis=0) * np.sqrt(1 + EPS)
        norms[f"{module}.norm.bias"] = np.mean(offsets, axis=0)
        norms[f"{module}.norm.mean"] = np.zeros(len(offsets[0]))
        norms[f"{module}.norm.var"] = np.ones(len(offsets[0]))
    return norms


def test_fold_that_leaves_float32_is_refused_by_name(world: World) -> None:
    """Law: finite tensors whose fold is not finite never reach an engine."""
    manifest, tensors = world.lora_parts("theme-1", "theme")
    tensors |= {"tower.0.scale": np.full(6, 1e38, np.float32), "tower.0.up": np.full((6, 3), 1e38, np.float32)}
    adapter = decode_adapter(encoded(manifest, tensors))
    with pytest.raises(BadValue, match=r"tower\.0\.up is not finite in float32 after folding"):
        fold_adapter(world.backbone, adapter, {}, None, ())


def test_fold_without_its_pins_names_what_is_missing(world: World) -> None:
    """Law: a combination of an absent adapter, or attention without its fusion, is an error that names it."""
    auxiliaries, fusion = world.auxiliaries("gender"), decode_fusion(world.fusion())
    adapter = decode_adapter(encoded(*world.fused_parts("theme-1", "attention", auxiliaries, fusion)))
    with pytest.raises(MissingPin, match="gender-f"):
        fold_adapter(world.backbone, adapter, {}, fusion, ("gender-f",))
    with pytest.raises(MissingPin, match=fusion.revision):
        fold_adapter(world.backbone, adapter, auxiliaries, None, ("gender-f",))


def test_world_backbone_is_what_was_written(world: World) -> None:
    """Law: the tests above look at a backbone that was read from its files."""
    assert isinstance(world.backbone, Backbone)
    assert world.backbone.modules == {"tower.0": (6, 8), "tower.1": (5, 6)}
