"""Bundles: written whole, read only as their manifest says, named by what an adapter depends on."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters_store.backbone import Backbone, fingerprint, read_bundle, read_bundle_from_store, write_bundle
from adapters_store.canonical import canonical_json, digest
from adapters_store.errors import (
    ArtifactError,
    BlobMissing,
    DigestMismatch,
    DoesNotFit,
    MalformedArtifact,
    StoreUnavailable,
)
from adapters_store.file import FileBackend
from adapters_store.manifest import BackboneManifest, Calibration, manifest_content
from adapters_store.memory import MemoryBackend
from adapters_store.store import AdapterStore
from adapters_store.tensors import write_tensors
from tests.adapters_store.world import World


def test_bundle_reads_back_as_it_was_written(world: World) -> None:
    """Law: revision, weights, golden rows and files are those that were written."""
    folder, backbone = world.folder / "bundle", world.backbone
    assert backbone.revision == digest((folder / "manifest.json").read_bytes())
    assert (folder / "manifest.json").read_bytes() == canonical_json(manifest_content(backbone.manifest))
    assert backbone.file("scoring.onnx") == (folder / "scoring.onnx").read_bytes()
    rows, logits = backbone.golden()
    assert rows.n == len(logits) == 16
    assert not list(world.folder.glob(".tmp-*"))


def test_writing_again_replaces_the_folder(world: World) -> None:
    """Law: a bundle folder is the old one or the new one, and keeps no file of the old."""
    folder = world.folder / "bundle"
    (folder / "leftover").touch()
    revision = write_bundle(folder, world.bundle_manifest(), world.bundle_files())
    assert revision != world.backbone.revision
    assert read_bundle(folder).revision == revision
    assert sorted(path.name for path in world.folder.iterdir()) == ["bundle"]
    assert not (folder / "leftover").exists()


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "vocabulary.safetensors", "items.safetensors", "golden.safetensors", "scoring.onnx"]
)
def test_changed_file_is_refused_before_it_is_opened(world: World, name: str) -> None:
    """Law: a file that is not what the manifest says is named and never parsed."""
    path = world.folder / "bundle" / name
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    with pytest.raises(DigestMismatch, match=f"{name} has sha256"):
        read_bundle(world.folder / "bundle")
    path.write_bytes(content[:-1])
    with pytest.raises(DigestMismatch, match=f"{name} has .* bytes, manifest.json says"):
        read_bundle(world.folder / "bundle")
    path.unlink()
    with pytest.raises(StoreUnavailable, match=f"cannot read {name}"):
        read_bundle(world.folder / "bundle")


def test_broken_manifest_is_refused(world: World) -> None:
    """Law: manifest.json is strict JSON of the right form."""
    path = world.folder / "bundle" / "manifest.json"
    for content, message in [(b"{", "is no JSON"), (b"[]", "manifest: "), (b'{"schema":9}', "schema 9 is newer")]:
        path.write_bytes(content)
        with pytest.raises(MalformedArtifact, match=message):
            read_bundle(world.folder / "bundle")


def test_weights_must_be_those_of_fields_and_tower(world: World) -> None:
    """Law: a weight that is missing, in excess, of another dtype or shape is named, by writer and reader alike."""
    weights = {name: np.array(tensor) for name, tensor in world.backbone.weights.items()}
    files = {name: world.backbone.file(name) for name in world.backbone.files}
    bias = "tower.1.bias"
    for spoilt, error, message in [
        ({name: w for name, w in weights.items() if name != bias}, MalformedArtifact, "'tower.1.bias' is missing"),
        (weights | {"tower.2.bias": weights[bias]}, MalformedArtifact, "'tower.2.bias' is none of this backbone"),
        (weights | {bias: weights[bias].astype(np.float64)}, MalformedArtifact, "it must be float32"),
        (weights | {bias: weights[bias][:-1]}, DoesNotFit, r"shape \(4,\); fields and tower say \(5,\)"),
    ]:
        broken = files | {"weights.safetensors": write_tensors(spoilt, {})}
        with pytest.raises(error, match=message):
            write_bundle(world.folder / "broken", world.bundle_manifest(), broken)
        assert not (world.folder / "broken").exists()


def test_file_that_a_bundle_lacks_is_named(world: World) -> None:
    """Law: asking for an absent file tells which files there are."""
    with pytest.raises(MalformedArtifact, match=r"no file 'novel.safetensors'; it has \['golden"):
        world.backbone.tensors("novel")


def test_fingerprint_covers_what_an_adapter_depends_on(world: World) -> None:
    """Law: any weight, any vocabulary entry, and fields, tower and eps change the fingerprint; nothing else does."""
    manifest, weights = world.backbone.manifest, dict(world.backbone.weights)
    vocabulary = world.backbone.tensors("vocabulary")
    own = world.backbone.fingerprint
    assert fingerprint(manifest, vocabulary, weights) == own
    outside: dict[str, Any] = {"divisions": [], "metrics": {"auc": 1.0}, "training": {"seed": 3}, "files": []}
    outside |= {"created_at": "now", "calibration": Calibration(slope=2.0, intercept=1.0)}
    assert fingerprint(manifest.model_copy(update=outside), vocabulary, weights) == own
    fields = [manifest.fields[0].model_copy(update={"missing": 0.5}), *manifest.fields[1:]]
    inside = [{"norm_eps": 1e-2}, {"fields": fields}, {"fields": manifest.fields[::-1]}, {"tower": [5, 6]}]
    found = {fingerprint(manifest.model_copy(update=change), vocabulary, weights) for change in inside}
    for name, tensor in weights.items():
        moved = np.array(tensor)
        moved.flat[-1] = np.nextafter(moved.flat[-1], np.float32(9))
        found.add(fingerprint(manifest, vocabulary, weights | {name: moved}))
    for name, tensor in vocabulary.items():
        moved = np.array(tensor)
        moved.flat[-1] += 1
        found.add(fingerprint(manifest, vocabulary | {name: moved}, weights))
    assert len(found) == len(inside) + len(weights) + len(vocabulary)
    assert own not in found


def test_fingerprint_does_not_depend_on_the_files_other_bytes(world: World) -> None:
    """Law: the same tensors in another file (other metadata) are the same backbone."""
    tensors = world.backbone.tensors("vocabulary")
    files = {name: world.backbone.file(name) for name in world.backbone.files}
    files["vocabulary.safetensors"] = write_tensors(tensors, {"another": "note"})
    write_bundle(world.folder / "again", world.bundle_manifest(), files)
    assert read_bundle(world.folder / "again").fingerprint == world.backbone.fingerprint


async def test_bundle_from_the_store_is_the_bundle(world: World) -> None:
    """Law: what was published is what is fetched; a missing blob is named."""
    store = AdapterStore(MemoryBackend(), lambda: 0.0)
    revision = await store.publish_backbone(world.folder / "bundle", "test")
    fetched = await store.bundle(revision)
    assert isinstance(fetched, Backbone)
    assert fetched.revision == revision == world.backbone.revision
    for name, weight in world.backbone.weights.items():
        np.testing.assert_array_equal(fetched.weights[name], weight)
    with pytest.raises(BlobMissing, match="0" * 64):
        await read_bundle_from_store(store, "0" * 64)


def test_golden_rows_outside_the_vocabulary_are_refused(world: World) -> None:
    """Law: a golden row can never index past a table."""
    tensors = world.backbone.tensors("golden")
    for name, value in [("inputs.user_id", 11), ("inputs.user_id", -1), ("inputs.tags.values", 7)]:
        spoilt = {key: np.array(tensor) for key, tensor in tensors.items()}
        spoilt[name][0] = value
        files = {"golden.safetensors": write_tensors(spoilt, {})}
        all_files = {n: world.backbone.file(n) for n in world.backbone.files} | files
        with pytest.raises(ArtifactError, match="golden"):
            Backbone("0" * 64, world.backbone.manifest, all_files).golden()


def test_manifest_and_folder_arguments_are_plain(tmp_path: Path) -> None:
    """Law: a bundle needs at least weights and vocabulary to be written."""
    manifest = BackboneManifest.model_validate(
        {"fields": [{"name": "age", "kind": "dense", "of": "user"}], "tower": [2]}
    )
    with pytest.raises(KeyError, match="vocabulary"):
        write_bundle(tmp_path / "bundle", manifest, {})


async def test_bundle_of_a_store_with_files_is_memory_mapped(world: World, tmp_path: Path) -> None:
    """Law: read from a store that has local files, tables and weights are views of a mapping, not copies."""
    store = AdapterStore(FileBackend(tmp_path, create=True), lambda: 0.0)
    backbone = await read_bundle_from_store(store, await store.publish_backbone(world.folder / "bundle"))
    for array in (*backbone.weights.values(), *backbone.tensors("vocabulary").values()):
        owner = array
        while isinstance(owner, np.ndarray):
            owner = owner.base
        assert isinstance(owner, memoryview)
        assert isinstance(owner.obj, mmap.mmap)
