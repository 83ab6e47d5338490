"""Bundles of every kind: what is written is what is read, what does not fit is refused by name, and mlp is as ever."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from adapters_store.artifact import decode_adapter
from adapters_store.backbone import Backbone, fingerprint, read_bundle
from adapters_store.errors import DoesNotFit, MalformedArtifact
from adapters_store.folding import Folded, fold_backbone
from adapters_store.kinds import adaptable_modules, expected_weights
from adapters_store.manifest import Attention, BackboneManifest, manifest_content
from adapters_store.tensors import write_tensors
from adapters_store.verification import verify_adapter
from benchmarks.forge import Run
from features.fields import Field
from features.rows import EncodedRows
from features.vocabulary import Vocabulary
from network.backbone import Backbone as Network
from tests.factory import SEGMENTS, Sizes, make_fields, make_lora, make_vocabulary
from tests.kinds import KINDS


def manifest_of(sizes: Sizes, **changes: Any) -> BackboneManifest:
    """A manifest without files."""
    form: dict[str, Any] = {"kind": sizes.kind, "tower": list(sizes.tower), "fields": make_fields(sizes)}
    if sizes.kind in ("dcn", "dcn_v2"):
        form["cross_layers"] = 2
    if sizes.kind == "autoint":
        form["attention"] = Attention(layers=2, heads=2, head_width=3)
    return BackboneManifest(**{**form, "norm": sizes.norm, **changes})


def weights_of(manifest: BackboneManifest) -> dict[str, Any]:
    """Zeros of the right shapes."""
    return {name: np.zeros(shape, np.float32) for name, shape in expected_weights(manifest).items()}


def backbone_of(manifest: BackboneManifest, weights: dict[str, Any]) -> Backbone:
    """A backbone of weights alone."""
    return Backbone("r", manifest, {"weights.safetensors": write_tensors(weights, {})})


@pytest.mark.parametrize("name", sorted(KINDS))
def test_shapes_are_the_networks(name: str) -> None:
    """Law: what a reader expects of each kind is what the network holds, by name and shape, modules included."""
    sizes = KINDS[name]
    shape = sizes.shape(make_fields(sizes))
    held = {name: tuple(tensor.shape) for name, tensor in Network(shape).weights().items()}
    manifest = manifest_of(sizes)
    assert expected_weights(manifest) == held
    assert adaptable_modules(manifest) == {module.name: (module.outputs, module.inputs) for module in shape.modules}


@pytest.mark.parametrize("name", sorted(KINDS))
def test_weights_that_do_not_fit_are_refused_by_name(name: str) -> None:
    """Law: a missing, an unknown, a misshapen and a float64 weight of each kind are refused, each by its name."""
    manifest = manifest_of(KINDS[name])
    good = weights_of(manifest)
    assert set(fold_backbone(backbone_of(manifest, good)).modules) == set(adaptable_modules(manifest))
    for weight in good:
        fewer = {key: value for key, value in good.items() if key != weight}
        with pytest.raises(MalformedArtifact, match=f"weight '{weight}' is missing: a backbone of kind"):
            backbone_of(manifest, fewer)
        with pytest.raises(DoesNotFit, match=f"weight '{weight}' has shape"):
            backbone_of(manifest, {**good, weight: np.zeros((*good[weight].shape, 2), np.float32)})
    for unknown in ("cross.9.weight", "first_order.nobody", "attention.0.query.bias", "tower.0.norm.scale"):
        with pytest.raises(MalformedArtifact, match=f"weight '{unknown}' is none of this backbone"):
            backbone_of(manifest, {**good, unknown: np.zeros(1, np.float32)})
    with pytest.raises(MalformedArtifact, match="must be float32"):
        backbone_of(manifest, {**good, "output.bias": np.zeros(1)})


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"kind": "dcn"}, "dcn and dcn_v2 have cross_layers"),
        ({"cross_layers": 2}, "dcn and dcn_v2 have cross_layers"),
        ({"kind": "dcn_v2", "cross_layers": 65}, "less than or equal to 64"),
        ({"kind": "autoint"}, "autoint has attention"),
        ({"attention": {"layers": 1, "heads": 1, "head_width": 1}}, "autoint has attention"),
        ({"kind": "deepfm", "fields": "two widths"}, "needs one width"),
        ({"kind": "neurfm", "fields": "dense alone"}, "needs one width"),
    ],
)
def test_kind_and_sizes_must_agree(changes: dict[str, Any], fault: str) -> None:
    """Law: sizes of another kind, missing ones and widths that a kind cannot multiply are refused."""
    dense = Field(name="price", kind="dense", of="item")
    fields = {
        "two widths": [*make_fields(Sizes()), Field(name="a", kind="sparse", of="user", vocabulary_size=3, width=7)],
        "dense alone": [dense],
    }
    if "fields" in changes:
        changes = {**changes, "fields": fields[changes["fields"]]}
    with pytest.raises(ValidationError, match=fault):
        manifest_of(Sizes(), **changes)


def test_bundles_of_kind_mlp_are_as_they_were() -> None:
    """Law: an mlp's manifest has no key, and its fingerprint no digit, that it had not before there were kinds."""
    manifest = manifest_of(Sizes())
    content = manifest_content(manifest)
    assert not {"norm", "cross_layers", "attention"} & set(content)
    assert not any("frozen" in field for field in content["fields"])
    weights = {name: np.full(shape, 0.5, np.float32) for name, shape in expected_weights(manifest).items()}
    found = fingerprint(manifest, make_vocabulary(Sizes()).to_tensors(), weights)
    assert found == "ec3b1c6f847c33938237df57772f56fdb7b2a3b1dc614ccd3b1305fe3d56cbaa"


def test_everything_that_decides_the_form_is_in_the_fingerprint() -> None:
    """Law: norms, cross layers, attention and frozen fields change the fingerprint; what is recorded does not."""
    vocabulary = Vocabulary({}).to_tensors()

    def of(**changes: Any) -> str:
        return fingerprint(manifest_of(KINDS["autoint"], **changes), vocabulary, {})

    picture, *others = make_fields(KINDS["autoint"])
    thawed = [picture.model_copy(update={"frozen": False, "width": 4}), *others]
    changed = [
        of(norm=False),
        of(attention=Attention(layers=2, heads=3, head_width=2)),
        of(fields=thawed),
    ]
    assert len({of(), *changed}) == 4
    assert of(metrics={"auc": 0.7}) == of()


@pytest.fixture(scope="module")
def adapter_of_norms(random_run: Run) -> bytes:
    """A valid adapter of a backbone with norms."""
    return make_lora(random_run.oracle, np.random.default_rng(0), Sizes(), SEGMENTS[0], "segment")


def test_a_missing_norm_is_refused(random_run: Run, adapter_of_norms: bytes) -> None:
    """Law: where the backbone has a norm an adapter has its own; the tensor is named."""
    adapter = decode_adapter(adapter_of_norms)
    for name in [name for name in adapter.tensors if ".norm." in name]:
        del adapter.tensors[name]
    with pytest.raises(DoesNotFit, match=r"tower\.0\.norm\.mean' is missing: the backbone has a norm there"):
        verify_adapter(adapter, read_bundle(random_run.folder / "bundle"), {}, None, scored_nowhere)


def test_a_norm_that_the_backbone_lacks_is_refused(random_run: Run, adapter_of_norms: bytes) -> None:
    """Law: where the backbone has no norm an adapter has none either; the tensor is named."""
    bundle = read_bundle(random_run.folder / "bundle")
    manifest = bundle.manifest.model_copy(update={"norm": False})
    bare = backbone_of(manifest, {name: value for name, value in bundle.weights.items() if ".norm." not in name})
    with pytest.raises(DoesNotFit, match=r"tower\.0\.norm\.mean' has no place: the backbone has no norm there"):
        verify_adapter(decode_adapter(adapter_of_norms), bare, {}, None, scored_nowhere)


def scored_nowhere(rows: EncodedRows, folded: Folded) -> Any:
    """No test here comes as far as scoring."""
    raise AssertionError
