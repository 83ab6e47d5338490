"""What verification accepts, and what it refuses with which words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from adapters_store.artifact import Adapter, Fusion, decode_adapter, decode_fusion
from adapters_store.backbone import Backbone
from adapters_store.errors import (
    ArtifactError,
    BadValue,
    DoesNotFit,
    GoldenMismatch,
    LimitExceeded,
    MalformedArtifact,
    MissingPin,
    WrongDomain,
    WrongFingerprint,
    WrongPin,
)
from adapters_store.tensors import Array, TensorLimits
from adapters_store.verification import verify_adapter, verify_backbone, verify_fusion
from tests.adapters_store.world import DIVISIONS, FoldEngine, World, encoded, raw

Spoil = Callable[[dict[str, Any], dict[str, Array]], object]


def verify_lora(world: World, manifest: dict[str, Any], tensors: dict[str, Array], **more: Any) -> None:
    engine = FoldEngine(world.backbone)
    verify_adapter(decode_adapter(raw(manifest, tensors)), world.backbone, {}, None, engine.logits, **more)


def fused(world: World, mode: str = "attention") -> tuple[Adapter, dict[str, Adapter], Fusion | None]:
    auxiliaries = world.auxiliaries("gender", "shelf")
    fusion = decode_fusion(world.fusion()) if mode == "attention" else None
    parts = world.fused_parts("theme-1", mode, auxiliaries, fusion, [("gender-f", "shelf-x"), (None, "shelf-y")])
    return decode_adapter(encoded(*parts)), auxiliaries, fusion


def test_valid_lora_is_accepted_and_folded(world: World) -> None:
    """Law: a valid adapter passes; its folds come back, so nobody folds twice."""
    adapter = decode_adapter(world.lora("gender-f", "gender"))
    engine = FoldEngine(world.backbone)
    folds = verify_adapter(adapter, world.backbone, {}, None, engine.logits, domain="gender-f")
    assert list(folds) == [()]


@pytest.mark.parametrize("mode", ["attention", "add", "avg"])
def test_valid_fused_adapter_is_accepted_with_all_its_combinations(world: World, mode: str) -> None:
    """Law: every combination of pinned domains, masked ones included, is folded."""
    adapter, auxiliaries, fusion = fused(world, mode)
    extra = auxiliaries | world.auxiliaries("theme")
    folds = verify_adapter(adapter, world.backbone, extra, fusion, FoldEngine(world.backbone).logits)
    genders, shelves = (*DIVISIONS["gender"], None), (*DIVISIONS["shelf"], None)
    assert list(folds) == [(gender, shelf) for gender in genders for shelf in shelves]


def test_new_domain_of_a_known_division_is_accepted(world: World) -> None:
    """Law: adding a domain changes no backbone."""
    manifest, tensors = world.lora_parts("theme-1", "theme")
    verify_lora(world, manifest | {"domain": "theme-new"}, tensors, domain="theme-new")


LORA_FAULTS: list[tuple[str, Spoil, type[ArtifactError], str]] = [
    ("fingerprint", lambda m, t: m.update(fingerprint="0" * 64), WrongFingerprint, "'theme-1' was made for backbone"),
    ("division", lambda m, t: m.update(division="season"), WrongDomain, "division 'season' is none of the backbone's"),
    ("of another", lambda m, t: m.update(division="gender"), WrongDomain, "is of division 'theme', not 'gender'"),
    ("module", lambda m, t: rename(m, t, "tower.1", "tower.9"), DoesNotFit, r"module 'tower\.9' is none of the"),
    ("width k", lambda m, t: t.update({"tower.0.down": np.zeros((3, 9), np.float32)}), DoesNotFit, "has width 9"),
    ("width d", lambda m, t: widen(t), DoesNotFit, r"'tower\.1\.up' has width 9; the backbone's module has 5"),
    ("no norm", lambda m, t: without_norm(t, "tower.1"), DoesNotFit, r"'tower\.1\.norm\.mean' is missing"),
    ("golden", lambda m, t: shift(t, 5, -2 * t["golden.logits"][5]), GoldenMismatch, "golden row 5: the engine"),
    ("tensor", lambda m, t: t.update({"tower.1.shift": t["tower.1.shift"] + 1}), GoldenMismatch, "golden row"),
    ("row range", lambda m, t: t["golden.inputs.user_id"].__setitem__(0, 99), MalformedArtifact, "user_id"),
    ("row missing", lambda m, t: t.pop("golden.inputs.price"), MalformedArtifact, "price is missing"),
    ("row excess", lambda m, t: t.update({"golden.inputs.x": t["golden.logits"]}), MalformedArtifact, r"\['x'\]"),
    ("row count", lambda m, t: t.update({"golden.logits": t["golden.logits"][:-1]}), MalformedArtifact, "12 rows"),
    ("overflow", lambda m, t: overflow(t), BadValue, r"tower\.0\.up is not finite in float32 after folding"),
]  # fmt: skip


def rename(manifest: dict[str, Any], tensors: dict[str, Array], old: str, new: str) -> None:
    manifest["ranks"] = {new if module == old else module: rank for module, rank in manifest["ranks"].items()}
    for name in [name for name in tensors if name.startswith(f"{old}.")]:
        tensors[new + name.removeprefix(old)] = tensors.pop(name)


def widen(tensors: dict[str, Array]) -> None:
    for name in [name for name in tensors if name.startswith("tower.1.") and not name.endswith("down")]:
        shape = (9, *tensors[name].shape[1:])
        tensors[name] = np.ones(shape, tensors[name].dtype)


def without_norm(tensors: dict[str, Array], module: str) -> None:
    for part in ("weight", "bias", "mean", "var"):
        del tensors[f"{module}.norm.{part}"]


def shift(tensors: dict[str, Array], row: int, by: float) -> None:
    logits = np.zeros_like(tensors["golden.logits"])
    logits[row] = by
    tensors["golden.logits"] = tensors["golden.logits"] + logits


def overflow(tensors: dict[str, Array]) -> None:
    tensors["tower.0.scale"] = np.full(6, 3e38, np.float32)
    tensors["tower.0.up"] = np.full((6, 3), 3e38, np.float32)


@pytest.mark.parametrize(("spoil", "error", "message"), [f[1:] for f in LORA_FAULTS], ids=[f[0] for f in LORA_FAULTS])
def test_lora_that_does_not_fit_is_refused_by_name(
    world: World, spoil: Spoil, error: type[ArtifactError], message: str
) -> None:
    """Law: each misfit is refused with a message that names the tensor, the row or the field."""
    manifest, tensors = world.lora_parts("theme-1", "theme")
    spoil(manifest, tensors)
    with pytest.raises(error, match=message):
        verify_lora(world, manifest, tensors)


def test_someone_elses_domain_is_refused(world: World) -> None:
    """Law: an adapter serves the domain that its manifest names and no other."""
    manifest, tensors = world.lora_parts("theme-1", "theme")
    with pytest.raises(WrongDomain, match="the adapter is of domain 'theme-1', not 'theme-2'"):
        verify_lora(world, manifest, tensors, domain="theme-2")


def test_golden_tolerance_is_on_probabilities(world: World) -> None:
    """Law: 1e-4 of probability passes or not, however large the logit."""
    manifest, tensors = world.lora_parts("theme-1", "theme")
    row = int(np.argmin(np.abs(tensors["golden.logits"])))
    shift(tensors, row, 2e-4)  # at most a quarter of it in probability
    verify_lora(world, manifest, tensors)
    shift(tensors, row, 2e-3)
    with pytest.raises(GoldenMismatch, match=f"golden row {row}"):
        verify_lora(world, manifest, tensors)


def test_engine_that_answers_nonsense_is_not_taken_for_agreement(world: World) -> None:
    """Law: a non-finite logit is a refusal that names the row."""
    adapter = decode_adapter(world.lora("theme-1", "theme"))
    with pytest.raises(BadValue, match="golden row 0: a logit is not finite"):
        verify_adapter(adapter, world.backbone, {}, None, lambda rows, folded: np.full(rows.n, np.nan))


def test_missing_pins_are_named(world: World) -> None:
    """Law: an absent pin, or one of another revision, is named by domain and revision."""
    adapter, auxiliaries, fusion = fused(world)
    logits_of = FoldEngine(world.backbone).logits
    left = {domain: pin for domain, pin in auxiliaries.items() if domain != "shelf-y"}
    with pytest.raises(MissingPin, match=f"'shelf-y', revision {auxiliaries['shelf-y'].revision}, is absent"):
        verify_adapter(adapter, world.backbone, left, fusion, logits_of)
    newer = decode_adapter(world.lora("shelf-y", "shelf"))
    with pytest.raises(MissingPin, match="'shelf-y'"):
        verify_adapter(adapter, world.backbone, auxiliaries | {"shelf-y": newer}, fusion, logits_of)
    for other in (None, decode_fusion(world.fusion())):
        with pytest.raises(MissingPin, match=f"fusion {adapter.manifest.fusion} is absent"):
            verify_adapter(adapter, world.backbone, auxiliaries, other, logits_of)


def respelt(adapter: Adapter, **changes: Any) -> Adapter:
    """The same adapter with a manifest that says otherwise; its revision stays, so pins still name it."""
    return replace(adapter, manifest=adapter.manifest.model_copy(update=changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"kind": "fused"}, WrongPin, "is of kind 'fused'; only 'lora' is pinned"),
        ({"domain": "gender-m"}, WrongPin, "pinned for domain 'gender-f' is of domain 'gender-m'"),
        ({"division": "theme"}, WrongPin, "is of division 'theme'; auxiliary divisions are"),
        ({"division": "shelf"}, WrongPin, "at the place of another division than 'shelf'"),
        ({"ranks": {"tower.0": 2}}, WrongPin, r"differs in module 'tower\.1'"),
        ({"fingerprint": "0" * 64}, WrongFingerprint, "adapter of domain 'gender-f' was made for backbone"),
    ],
)
def test_pin_of_a_wrong_kind_is_refused(
    world: World, changes: dict[str, Any], error: type[ArtifactError], message: str
) -> None:
    """Law: a pin is a lora of its domain, of an auxiliary division, for this backbone, on the same modules."""
    adapter, auxiliaries, fusion = fused(world)
    spoilt = auxiliaries | {"gender-f": respelt(auxiliaries["gender-f"], **changes)}
    with pytest.raises(error, match=message):
        verify_adapter(adapter, world.backbone, spoilt, fusion, FoldEngine(world.backbone).logits)


def test_fusion_must_fit_backbone_and_adapter(world: World) -> None:
    """Law: a fusion is of this backbone, of its widths, and covers the adapter's modules and divisions."""
    adapter, auxiliaries, fusion = fused(world)
    assert fusion is not None
    verify_fusion(fusion, world.backbone)

    def say(**changes: Any) -> Fusion:
        return replace(fusion, manifest=fusion.manifest.model_copy(update=changes))

    with pytest.raises(WrongFingerprint, match="fusion"):
        verify_fusion(say(fingerprint="0" * 64), world.backbone)
    with pytest.raises(DoesNotFit, match=r"tower\.5"):
        verify_fusion(say(ranks={"tower.5": 3}), world.backbone)
    swapped = fusion.tensors | {"fusion.tower.0.query": fusion.tensors["fusion.tower.1.query"]}
    with pytest.raises(DoesNotFit, match=r"'fusion\.tower\.0\.query' has width 5; the backbone's module has 6"):
        verify_fusion(replace(fusion, tensors=swapped), world.backbone)
    for changes, message in [
        ({"ranks": {"tower.0": 3}}, r"has no module 'tower\.1'"),
        ({"divisions": ["theme", "gender"]}, "was not trained on division 'shelf'"),
    ]:
        with pytest.raises(WrongPin, match=message):
            verify_adapter(adapter, world.backbone, auxiliaries, say(**changes), FoldEngine(world.backbone).logits)


def test_an_auxiliary_lora_is_held_to_the_fusion_that_it_pins(world: World) -> None:
    """Law: a lora of an auxiliary division may pin a fusion, which is there and covers it; a natural one pins none."""
    engine, fusion = FoldEngine(world.backbone), decode_fusion(world.fusion())

    def check(domain: str, division: str, given: Fusion | None) -> None:
        manifest, tensors = world.lora_parts(domain, division)
        adapter = decode_adapter(encoded(manifest | {"fusion": fusion.revision}, tensors))
        assert list(verify_adapter(adapter, world.backbone, {}, given, engine.logits, domain=domain)) == [()]

    def say(**changes: Any) -> Fusion:
        return replace(fusion, manifest=fusion.manifest.model_copy(update=changes))

    check("gender-f", "gender", fusion)
    with pytest.raises(MissingPin, match=f"the pinned fusion {fusion.revision} is absent"):
        check("gender-f", "gender", None)
    with pytest.raises(WrongPin, match="'lora' of the natural division 'theme' fuses nothing: it pins no fusion"):
        check("theme-1", "theme", fusion)
    with pytest.raises(WrongPin, match="was not trained on division 'gender'"):
        check("gender-f", "gender", say(divisions=["theme", "shelf"]))
    with pytest.raises(WrongPin, match=r"has no module 'tower\.1'"):
        check("gender-f", "gender", say(ranks={"tower.0": 3}))
    with pytest.raises(WrongFingerprint, match="fusion"):
        check("gender-f", "gender", say(fingerprint="0" * 64))


def test_combinations_are_bounded_before_they_are_made(world: World) -> None:
    """Law: divisions with many domains cannot multiply into a bomb."""
    adapter, auxiliaries, fusion = fused(world)
    with pytest.raises(LimitExceeded, match="9 combinations of auxiliary domains, more than the limit of 8"):
        verify_adapter(
            adapter,
            world.backbone,
            auxiliaries,
            fusion,
            lambda rows, folded: pytest.fail("scored"),
            limits=TensorLimits(combinations=8),
        )


def test_golden_row_of_an_unpinned_domain_is_refused(world: World) -> None:
    """Law: golden rows name combinations that can occur."""
    auxiliaries = world.auxiliaries("gender")
    manifest, tensors = world.fused_parts("theme-1", "avg", auxiliaries, None)
    manifest["golden_divisions"] = {"gender": ["gender-f", "gender-x"]}
    tensors["golden.division.gender"] = np.array([0, 1] * 12, np.int32)
    adapter = decode_adapter(raw(manifest, tensors))
    with pytest.raises(MalformedArtifact, match=r"golden row 1 names the combination \('gender-x',\)"):
        verify_adapter(adapter, world.backbone, auxiliaries, None, FoldEngine(world.backbone).logits)


def test_backbone_is_verified_whole(world: World) -> None:
    """Law: a bundle is complete, says its own fingerprint, is finite, and the engine reproduces its golden rows."""
    backbone, engine = world.backbone, FoldEngine(world.backbone)
    folded = verify_backbone(backbone, engine.logits)
    assert set(folded.modules) == {"tower.0", "tower.1"}
    files = dict(backbone.files)
    without = {name: file for name, file in files.items() if name != "users.safetensors"}
    with pytest.raises(MalformedArtifact, match=r"the bundle has no file 'users\.safetensors'"):
        verify_backbone(Backbone(backbone.revision, backbone.manifest, without), engine.logits)
    renamed = backbone.manifest.model_copy(update={"fingerprint": "0" * 64})
    with pytest.raises(WrongFingerprint, match="says fingerprint 0000"):
        verify_backbone(Backbone(backbone.revision, renamed, files), engine.logits)
    with pytest.raises(GoldenMismatch, match="golden row"):
        verify_backbone(backbone, lambda rows, folded: engine.logits(rows, folded) + 0.1)
