"""Feature tables that are published beside a backbone: layers in the service's column form, one artifact each.

::

    index.*              ids that have a row here, as in `users.safetensors`
    column.<field>       their encoded rows
    division.<name>      int32, positions in the manifest's domains; absent from a delta: as the parent has it
    deleted.*            ids that a delta takes away

A delta names its parent; the chain ends at a full layer, or at the file that the bundle itself carries.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from adapters_store.backbone import Backbone, file_bound
from adapters_store.bounds import ANY_BLOB, Bound
from adapters_store.canonical import digest
from adapters_store.errors import ArtifactError, DoesNotFit, LimitExceeded, MalformedArtifact, WrongFingerprint
from adapters_store.manifest import BackboneManifest, FeatureManifest, FileEntry, manifest_content, parse_manifest
from adapters_store.tensors import BUNDLE_LIMITS, Array, TensorLimits, read_tensors, write_tensors
from features.errors import FeatureError
from features.fields import Division, Field
from features.index import RawIndex
from features.layers import Delta, LayeredTable
from features.rows import EncodedRows
from features.tables import FeatureTable, division_column

Side = Literal["users", "items"]
SIDES: tuple[Side, ...] = ("users", "items")

# A chain is read whole at a start, so it may not grow for ever: a publisher writes a full layer instead.
DELTAS = 16
FEATURE_LIMITS = TensorLimits(bytes=2 * 2**30, tensors=2**13, header_bytes=4 * 2**20)
LAYER_BOUND = Bound(FEATURE_LIMITS.bytes, "the format of feature tables")

_OF: Mapping[str, str] = {"users": "user", "items": "item"}


class BlobMapper(Protocol):
    """Where layers are read from; an `AdapterStore` is one."""

    async def map(self, revision: str, bound: Bound) -> memoryview:
        """The bytes of this digest, checked against it; memory-mapped where that is possible."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureLayer:
    """One layer, read and checked.

    Args:
        revision: sha256 of the file.
        manifest: What it says about itself.
        rows: Its ids and columns, views of the file; of a full layer `deleted` is empty.
    """

    revision: str
    manifest: FeatureManifest
    rows: Delta


@dataclass(frozen=True, slots=True, eq=False)
class LoadedTable:
    """A table as a chain of layers makes it.

    Args:
        revision: Of the newest layer; of the bundle's file where nothing was published.
        table: What it says of each id.
        deltas: How many layers lie on the full one.
        read: The blobs that it was read from, newest first: what reading it once more needs.
    """

    revision: str
    table: LayeredTable
    deltas: int = 0
    read: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.table)


def side_fields(manifest: BackboneManifest, side: str) -> tuple[Field, ...]:
    """The fields of `users` or `items`."""
    return tuple(field for field in manifest.fields if field.of == _OF[side])


def side_divisions(manifest: BackboneManifest, side: str) -> tuple[Division, ...]:
    """The divisions of `users` or `items`."""
    return tuple(division for division in manifest.divisions if division.of == _OF[side])


def encode_layer(manifest: FeatureManifest, layer: Delta) -> bytes:
    """Write a layer.

    Args:
        manifest: Without `rows`, `deleted`: both are filled in here.
        layer: Its ids and columns.

    Returns:
        The file; equal content gives equal bytes, and its sha256 is the revision.

    Raises:
        LimitExceeded: It is larger than a reader takes.
    """
    tensors = layer.index.hashed().to_tensors("index") | layer.columns.to_tensors("column")
    tensors |= {f"division.{name}": domains for name, domains in layer.divisions.items()}
    if manifest.layer == "delta":
        tensors |= layer.deleted.to_tensors("deleted")
    whole = manifest.model_copy(update={"rows": len(layer.index), "deleted": len(layer.deleted)})
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > FEATURE_LIMITS.bytes - FEATURE_LIMITS.header_bytes:
        raise LimitExceeded(f"a feature table of {size} bytes; at most {FEATURE_LIMITS.bytes} are taken")
    return write_tensors(tensors, manifest_content(whole))


def decode_layer(
    content: bytes | memoryview,
    backbone: BackboneManifest,
    limits: TensorLimits = FEATURE_LIMITS,
    revision: str | None = None,
) -> FeatureLayer:
    """Read a layer without trust, and hold it to the backbone.

    Args:
        content: The file.
        backbone: Whose vocabulary it must be of.
        limits: What it may be at most.
        revision: sha256 of `content` where the caller has checked it already.

    Returns:
        The layer; its arrays are views of `content`.

    Raises:
        ArtifactError: It is refused; the message names the tensor, the id or the manifest key.
    """
    file = read_tensors(content, limits)
    manifest = parse_manifest(file.metadata, FeatureManifest)
    if manifest.fingerprint != backbone.fingerprint:
        raise WrongFingerprint(
            f"the table is of fingerprint {manifest.fingerprint}, the backbone has {backbone.fingerprint}"
        )
    if manifest.deltas > DELTAS:
        raise LimitExceeded(f"{manifest.deltas} deltas on one full layer; at most {DELTAS} are taken")
    try:
        rows = _rows(file.tensors, manifest, backbone)
    except FeatureError as error:
        raise MalformedArtifact(f"feature table: {error}") from None
    return FeatureLayer(revision or digest(content), manifest, rows)


def bundled_table(backbone: Backbone, side: str, content: memoryview | None = None) -> LoadedTable:
    """The table that the bundle itself carries.

    Args:
        backbone: Read from that bundle.
        side: `users` or `items`.
        content: The bytes of its file where the caller has them mapped; None takes the backbone's own.

    Raises:
        MalformedArtifact: It has none, or it is not such a table.
    """
    fields, divisions = side_fields(backbone.manifest, side), side_divisions(backbone.manifest, side)
    tensors = backbone.tensors(side) if content is None else read_tensors(content, BUNDLE_LIMITS).tensors
    try:
        table = FeatureTable.from_tensors(tensors, fields, divisions)
    except FeatureError as error:
        raise MalformedArtifact(f"{side}.safetensors: {error}") from None
    names = [division.name for division in divisions]
    revision = bundled_revision(backbone, side)
    return LoadedTable(revision, LayeredTable(table, fields, names), read=(revision,))


def bundled_revision(backbone: Backbone, side: str) -> str:
    """The digest of the bundle's own file of a side.

    Raises:
        MalformedArtifact: The bundle has none.
    """
    return _bundled_file(backbone, side).sha256


def _bundled_file(backbone: Backbone, side: str) -> FileEntry:
    name = f"{side}.safetensors"
    for entry in backbone.manifest.files:
        if entry.name == name:
            return entry
    raise MalformedArtifact(f"the bundle has no file {name!r}")


async def load_table(
    store: BlobMapper, backbone: Backbone, side: str, revision: str | None, current: LoadedTable | None = None
) -> LoadedTable:
    """Read a chain of layers, from the newest down to what is there already.

    A chain that ends at the file of another bundle lies on this bundle's own table. Layers belong to a fingerprint,
    whose vocabulary and columns both bundles have; which domains that other file counts only its manifest could say.

    Args:
        store: Where the layers are.
        backbone: Whose table it is.
        side: `users` or `items`.
        revision: The newest layer; None: the bundle's own table.
        current: What serves now: layers that it is made of are not read again.

    Returns:
        The table; all arrays of its full layer are views of the mapped file.

    Raises:
        ArtifactError: A layer is refused; it is named.
        BlobMissing: A layer is not in the store.
        StoreUnavailable: The store cannot be read.
    """
    own = _bundled_file(backbone, side)
    bundled = own.sha256
    wanted = bundled if revision is None else revision
    above: list[FeatureLayer] = []
    foreign: list[str] = []
    while True:
        if current is not None and wanted == current.revision:
            base = current
            break
        try:
            content = await store.map(wanted, file_bound(own) if wanted == bundled else LAYER_BOUND)
        except LimitExceeded:
            if not above:
                raise
            foreign.append(wanted)  # no layer is so large: it is the file of another bundle, which need not be read
            wanted = bundled
            continue
        if wanted == bundled:
            base = await asyncio.to_thread(bundled_table, backbone, side, content)
            break
        ends_elsewhere: bool = await asyncio.to_thread(_is_of_a_bundle, content)
        if above and ends_elsewhere:
            foreign.append(wanted)
            wanted = bundled
            continue
        layer = await _layer(content, backbone, side, wanted)
        _check_place(layer, above)
        if layer.manifest.parent is None:
            base = await asyncio.to_thread(_full, layer, backbone, side)
            break
        above.append(layer)
        wanted = layer.manifest.parent
    if above and base.deltas != above[-1].manifest.deltas - 1:
        raise MalformedArtifact(f"layer {above[-1].revision} counts {above[-1].manifest.deltas} deltas wrongly")
    if not above:
        return base
    table = await asyncio.to_thread(base.table.under, [layer.rows for layer in reversed(above)])
    read = (*(layer.revision for layer in above), *foreign, *base.read)
    return LoadedTable(above[0].revision, table, base.deltas + len(above), read)


async def layers_of(store: BlobMapper, revision: str) -> list[str]:
    """The revisions that a chain is made of, newest first: what garbage collection and copying must keep together.

    The last is a full layer, or the file of a bundle, which may be of any size.

    Raises:
        ArtifactError: A layer is refused.
        BlobMissing: A layer is not in the store.
        StoreUnavailable: The store cannot be read.
    """
    found = [revision]
    while len(found) <= DELTAS + 1:
        manifest = await asyncio.to_thread(read_manifest, await store.map(found[-1], ANY_BLOB))
        if manifest is None or manifest.parent is None:
            return found
        found.append(manifest.parent)
    raise LimitExceeded(f"more than {DELTAS} deltas lie on one full layer under {revision}")


def read_manifest(content: bytes | memoryview) -> FeatureManifest | None:
    """What a layer says about itself; None for the file of a bundle, which says nothing.

    Raises:
        ArtifactError: It is neither.
    """
    metadata = read_tensors(content, BUNDLE_LIMITS).metadata
    if not isinstance(metadata, dict) or metadata.get("kind") != "features":
        return None
    return parse_manifest(metadata, FeatureManifest)


def _is_of_a_bundle(content: memoryview) -> bool:
    try:
        return read_manifest(content) is None
    except ArtifactError:  # reading it as a layer names it, and what is wrong
        return False


async def _layer(content: memoryview, backbone: Backbone, side: str, revision: str) -> FeatureLayer:
    try:
        layer = await asyncio.to_thread(decode_layer, content, backbone.manifest, FEATURE_LIMITS, revision)
    except (LimitExceeded, MalformedArtifact, WrongFingerprint, DoesNotFit) as error:
        raise type(error)(f"layer {revision}: {error}") from None
    if layer.manifest.side != side:
        raise DoesNotFit(f"layer {revision} is of {layer.manifest.side}, not of {side}")
    return layer


def _check_place(layer: FeatureLayer, above: Sequence[FeatureLayer]) -> None:
    """A falling count is what keeps a chain from being walked for ever."""
    if above and layer.manifest.deltas != above[-1].manifest.deltas - 1:
        raise MalformedArtifact(
            f"layer {layer.revision} counts {layer.manifest.deltas} deltas under one of {above[-1].manifest.deltas}"
        )


def _full(layer: FeatureLayer, backbone: Backbone, side: str) -> LoadedTable:
    fields = side_fields(backbone.manifest, side)
    names = [division.name for division in side_divisions(backbone.manifest, side)]
    table = FeatureTable(layer.rows.index, fields, layer.rows.columns, layer.rows.divisions)
    return LoadedTable(layer.revision, LayeredTable(table, fields, names), read=(layer.revision,))


def _rows(tensors: Mapping[str, Array], manifest: FeatureManifest, backbone: BackboneManifest) -> Delta:
    fields = side_fields(backbone, manifest.side)
    index = RawIndex.from_tensors(tensors, "index")
    columns = EncodedRows.from_tensors(tensors, "column", fields)
    if fields and columns.n != len(index):
        raise MalformedArtifact(f"columns have {columns.n} rows, the index has {len(index)}")
    is_delta = manifest.layer == "delta"
    deleted = RawIndex.from_tensors(tensors, "deleted") if is_delta else RawIndex.from_values([])
    if (len(index), len(deleted)) != (manifest.rows, manifest.deleted):
        raise MalformedArtifact(
            f"{len(index)} rows and {len(deleted)} deleted ids; the manifest says {manifest.rows}, {manifest.deleted}"
        )
    both = np.flatnonzero(index.find(deleted.values()) >= 0)
    if len(both):
        raise MalformedArtifact(f"id {deleted.raw(int(both[0]))!r} has a row and is deleted too")
    divisions = {
        division.name: _domains(tensors, manifest, division, len(index))
        for division in side_divisions(backbone, manifest.side)
        if not is_delta or f"division.{division.name}" in tensors
    }
    return Delta(index, EncodedRows(len(index), columns.arrays), divisions, deleted)


def _domains(tensors: Mapping[str, Array], manifest: FeatureManifest, division: Division, n: int) -> Array:
    """A division's column, counted in the backbone's domains: adding a domain changes no fingerprint."""
    named = manifest.divisions.get(division.name)
    if named is None:
        if f"division.{division.name}" in tensors:
            raise MalformedArtifact(f"the manifest does not say which domains division.{division.name} counts")
        return np.full(n, -1, np.int32)  # the backbone's bundle got this division later
    stored = Division.model_construct(**{**division.model_dump(), "domains": tuple(named)})
    column = division_column(tensors, stored, n)
    if tuple(named) == division.domains:
        return column
    places = {domain: place for place, domain in enumerate(division.domains)}
    moved = np.array([*(places.get(domain, -1) for domain in named), -1], np.int32)
    return moved[column]
