"""The backbone bundle: a folder (or blobs) of files whose names, sizes and digests `manifest.json` lists."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from adapters_store.bounds import Bound
from adapters_store.canonical import canonical_json, digest, parse_json
from adapters_store.durable import TEMPORARY, sync_folder, write_durably
from adapters_store.errors import DigestMismatch, LimitExceeded, MalformedArtifact, StoreUnavailable
from adapters_store.kinds import adaptable_modules, check_weights
from adapters_store.manifest import BackboneManifest, FileEntry, manifest_content, parse_manifest
from adapters_store.tensors import BUNDLE_LIMITS, Array, read_tensors
from features.errors import MalformedTensors
from features.rows import EncodedRows

MANIFEST = "manifest.json"
_FINGERPRINTED = ("schema", "kind", "fields", "tower", "norm_eps", "norm", "cross_layers", "attention")
COUNTS = "counts"
"""The tensors `<id field>` int32 (V,) say how often training named each row; an older bundle has no such file."""
MANIFEST_BOUND = Bound(64 * 2**20, f"the format of a bundle's {MANIFEST}")


class BlobReader(Protocol):
    """Where a bundle's files can be read from by digest; an `AdapterStore` is one."""

    async def map(self, revision: str, bound: Bound) -> memoryview:
        """The bytes of this digest, already checked against it; memory-mapped where the store has local files."""


class Backbone:
    """A frozen backbone, read from a bundle whose files were checked against their digests.

    Args:
        revision: sha256 of `manifest.json`.
        manifest: What it says about itself.
        files: File name to its bytes, or its path (then it is memory-mapped when read).

    Raises:
        MalformedArtifact: A weight is missing or of a wrong dtype, or its file is not a tensor file.
        DoesNotFit: A weight has another shape than fields, kind and tower say.
    """

    def __init__(
        self, revision: str, manifest: BackboneManifest, files: Mapping[str, bytes | memoryview | Path]
    ) -> None:
        self.revision = revision
        self.manifest = manifest
        self.fingerprint = manifest.fingerprint
        self.files = dict(files)
        self.weights = self.tensors("weights")
        check_weights(manifest, self.weights)
        self.modules = adaptable_modules(manifest)

    def file(self, name: str) -> bytes:
        """The bytes of one file.

        Raises:
            MalformedArtifact: The bundle has no such file.
        """
        source = self._source(name)
        return _read(source) if isinstance(source, Path) else bytes(source)

    def tensors(self, name: str) -> dict[str, Array]:
        """The tensors of `<name>.safetensors`: weights, vocabulary, users, items, golden or counts; not cached.

        Raises:
            MalformedArtifact: The bundle has no such file, or it is not a tensor file.
        """
        return read_tensors(self._source(f"{name}.safetensors"), BUNDLE_LIMITS).tensors

    def golden(self) -> tuple[EncodedRows, Array]:
        """Rows that an engine must reproduce, and their logits, float64 (n,).

        Raises:
            MalformedArtifact: They are not there, or not such rows.
        """
        tensors = self.tensors("golden")
        return golden_rows(self.manifest, tensors, tensors.get("logits"))

    def _source(self, name: str) -> bytes | memoryview | Path:
        if name not in self.files:
            raise MalformedArtifact(f"the bundle has no file {name!r}; it has {sorted(self.files)}")
        return self.files[name]


def golden_rows(
    manifest: BackboneManifest, tensors: Mapping[str, Array], logits: Array | None
) -> tuple[EncodedRows, Array]:
    """Read golden rows.

    Args:
        manifest: Of the backbone, for its fields.
        tensors: `inputs.<field>`, and whatever else.
        logits: float64 (n,).

    Returns:
        The rows, every index inside its vocabulary, and their logits.

    Raises:
        MalformedArtifact: A field is missing, of a wrong dtype or length or out of range, or stands there in excess.
    """
    if logits is None or logits.dtype != np.float64 or logits.ndim != 1:
        raise MalformedArtifact("golden logits are missing, or not float64 (n,)")
    try:
        rows = EncodedRows.from_tensors(tensors, "inputs", manifest.fields)
    except MalformedTensors as error:
        raise MalformedArtifact(f"golden rows: {error}") from None
    given = {name.removeprefix("inputs.") for name in tensors if name.startswith("inputs.")}
    if given != set(rows.arrays):
        raise MalformedArtifact(
            f"golden inputs name fields that the backbone lacks: {sorted(given - set(rows.arrays))}"
        )
    if rows.n != len(logits):
        raise MalformedArtifact(f"golden inputs have {rows.n} rows, golden logits {len(logits)}")
    return rows, logits


def fingerprint(manifest: BackboneManifest, vocabulary: Mapping[str, Array], weights: Mapping[str, Array]) -> str:
    """Name what an adapter depends on: sha256 over the field spec, the vocabularies and every weight.

    Divisions, domains, metrics and records are outside, so adding a domain changes no backbone.

    Args:
        manifest: What decides the network's form goes in.
        vocabulary: Tensors of `vocabulary.safetensors`, `<field>.<part>`.
        weights: Tensors of `weights.safetensors`.

    Returns:
        The fingerprint, in hex.
    """
    by_field: dict[str, dict[str, Array]] = {}
    for name, tensor in vocabulary.items():
        by_field.setdefault(name.split(".")[0], {})[name] = tensor
    content = manifest_content(manifest)
    said = {key: content[key] for key in _FINGERPRINTED if key in content}
    said["vocabulary"] = {field: _tensors_digest(tensors) for field, tensors in by_field.items()}
    return digest(canonical_json(said) + _tensors_digest(weights).encode())


def write_bundle(folder: Path, manifest: BackboneManifest, files: Mapping[str, bytes]) -> str:
    """Write a bundle folder, whole or not at all; an older one in its place is replaced.

    Args:
        folder: Where; its parent is created if need be.
        manifest: Without fingerprint and files: both are filled in here.
        files: File name to bytes; `weights.safetensors` and `vocabulary.safetensors` at least.

    Returns:
        The bundle's revision.

    Raises:
        ArtifactError: The weights are not what the manifest says.
        StoreUnavailable: The folder cannot be written.
    """
    read = {name: read_tensors(files[f"{name}.safetensors"], BUNDLE_LIMITS) for name in ("vocabulary", "weights")}
    whole = manifest.model_copy(
        update={
            "fingerprint": fingerprint(manifest, read["vocabulary"].tensors, read["weights"].tensors),
            "files": [
                FileEntry(name=name, bytes=len(files[name]), sha256=digest(files[name])) for name in sorted(files)
            ],
        }
    )
    content = canonical_json(manifest_content(whole))
    Backbone(digest(content), whole, files)  # refuse here what a reader would refuse
    try:
        _replace_folder(folder, {**files, MANIFEST: content})
    except OSError as error:
        raise StoreUnavailable(f"cannot write the bundle folder {folder.name}: {error.strerror}") from error
    return digest(content)


def read_bundle(folder: Path) -> Backbone:
    """Read a bundle folder; every file is checked against its digest before it is opened as what it is.

    Args:
        folder: Where.

    Returns:
        The backbone; its tensor files are memory-mapped.

    Raises:
        DigestMismatch: A file is not what the manifest says.
        ArtifactError: The manifest or the weights are refused.
        StoreUnavailable: A file cannot be read.
    """
    content = _read(folder / MANIFEST)
    manifest = parse_bundle_manifest(content)
    for entry in manifest.files:
        _check_file(folder / entry.name, entry)
    return Backbone(digest(content), manifest, {entry.name: folder / entry.name for entry in manifest.files})


async def read_bundle_from_store(store: BlobReader, revision: str) -> Backbone:
    """Read a bundle that was published: its manifest is the blob `revision`, its files are blobs by their digests.

    Args:
        store: Where the blobs are; it checks digests.
        revision: Of the bundle.

    Returns:
        The backbone; where the store has local files they are memory-mapped, so that worker processes share them.

    Raises:
        BlobMissing: The manifest or a file is not in the store.
        DigestMismatch: A file is not what the manifest names.
        ArtifactError: The manifest or the weights are refused.
        StoreUnavailable: The store cannot be read.
    """
    manifest = parse_bundle_manifest(bytes(await store.map(revision, MANIFEST_BOUND)))
    files = {entry.name: await store.map(entry.sha256, file_bound(entry)) for entry in manifest.files}
    return Backbone(revision, manifest, files)


def file_bound(entry: FileEntry) -> Bound:
    """How large a bundle's file is, as its manifest says."""
    return Bound(entry.bytes, f"{entry.name} in the bundle's {MANIFEST}", exact=True)


def parse_bundle_manifest(content: bytes) -> BackboneManifest:
    """Read `manifest.json`.

    Raises:
        LimitExceeded: It is too large.
        MalformedArtifact: It is no backbone manifest; the message names each key at fault.
    """
    if len(content) > MANIFEST_BOUND.size_bytes:
        raise LimitExceeded(f"{MANIFEST} has {len(content)} bytes, more than the limit of {MANIFEST_BOUND.size_bytes}")
    try:
        return parse_manifest(parse_json(content), BackboneManifest)
    except ValueError as error:
        raise MalformedArtifact(f"{MANIFEST} is no JSON: {error}") from None


def _tensors_digest(tensors: Mapping[str, Array]) -> str:
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        hashed.update(canonical_json([name, tensor.dtype.str, list(tensor.shape)]))
        hashed.update(np.ascontiguousarray(tensor).data)
    return hashed.hexdigest()


def _check_file(path: Path, entry: FileEntry) -> None:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry.bytes:
                raise DigestMismatch(f"{entry.name} has {size} bytes, {MANIFEST} says {entry.bytes}")
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StoreUnavailable(f"cannot read {path.name} of the bundle: {error.strerror}") from error
    if found != entry.sha256:
        raise DigestMismatch(f"{entry.name} has sha256 {found}, {MANIFEST} says {entry.sha256}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StoreUnavailable(f"cannot read {path.name} of the bundle: {error.strerror}") from error


def _replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    fresh.mkdir()
    try:
        for name, content in files.items():
            write_durably(fresh / name, content)
        if folder.exists():
            retired = folder.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
            folder.rename(retired)
            fresh.rename(folder)
            shutil.rmtree(retired)
        else:
            fresh.rename(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    sync_folder(folder.parent)
