"""Publishing a layer of a feature table: encode, verify as a reader will, store, and move the record."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from adapters_store.backbone import Backbone
from adapters_store.errors import RecordConflict
from adapters_store.feature_tables import (
    DELTAS,
    FeatureLayer,
    bundled_revision,
    decode_layer,
    encode_layer,
    load_table,
    read_manifest,
    side_divisions,
)
from adapters_store.manifest import FeatureManifest
from adapters_store.record_store import GARBAGE
from adapters_store.store import AdapterStore
from features.index import RawIndex
from features.layers import Delta, LayeredTable


@dataclass(frozen=True, slots=True)
class PublishedLayer:
    """What publishing did.

    Args:
        revision: Of the layer.
        status: `created`; `unchanged` if it was the newest already; `verified` where nothing was to be written.
        manifest: What the layer says about itself; a delta beyond the longest chain became a full layer.
        size_bytes: Of the file.
    """

    revision: str
    status: Literal["created", "unchanged", "verified"]
    manifest: FeatureManifest
    size_bytes: int


async def publish_layer(
    store: AdapterStore,
    backbone: Backbone,
    side: Literal["users", "items"],
    rows: Delta,
    unknown_values: Mapping[str, int],
    *,
    parent: str | None,
    by: str,
    dry_run: bool = False,
) -> PublishedLayer:
    """Publish a layer and make it the newest of its table.

    Args:
        store: Where to.
        backbone: Whose vocabulary the rows are of.
        side: `users` or `items`.
        rows: What the layer holds.
        unknown_values: Field to how many of its values the vocabulary does not have.
        parent: The table that a delta was made for; None: a full table, which replaces whatever there is.
        by: Who asks.
        dry_run: Verify only, write nothing.

    Returns:
        What was done.

    Raises:
        ArtifactError: The layer is refused.
        RecordConflict: Another table than `parent` is current, or became so meanwhile; it is named.
        Frozen: Changes are stopped.
        StoreUnavailable: Unknown whether it happened.
    """
    record = await store.feature_record(backbone.fingerprint, side)
    current = record.revision or bundled_revision(backbone, side)
    draft = _Draft(store, backbone, side, rows, unknown_values)
    if parent is None:
        layer, content = await draft.full(rows)
    elif parent == current:
        layer, content = await draft.on(parent)
    else:
        layer, content = await draft.again(parent, current)
    if layer.revision == current:
        return PublishedLayer(layer.revision, "unchanged", layer.manifest, len(content))
    if dry_run:
        return PublishedLayer(layer.revision, "verified", layer.manifest, len(content))
    await store.put(content)
    await store.spare(GARBAGE, [layer.revision], by)  # an earlier table that comes back may be condemned
    await store.set_features(backbone.fingerprint, side, layer.revision, record.revision, by)
    return PublishedLayer(layer.revision, "created", layer.manifest, len(content))


class _Draft:
    """A layer on its way to bytes."""

    def __init__(
        self,
        store: AdapterStore,
        backbone: Backbone,
        side: Literal["users", "items"],
        rows: Delta,
        unknown_values: Mapping[str, int],
    ) -> None:
        self._store = store
        self._backbone = backbone
        self._side = side
        self._rows = rows
        self._unknown_values = unknown_values
        self._divisions = side_divisions(backbone.manifest, side)

    async def full(self, rows: Delta) -> tuple[FeatureLayer, bytes]:
        """The layer that stands alone."""
        return await asyncio.to_thread(self._encoded, rows, None, 0)

    async def on(self, parent: str) -> tuple[FeatureLayer, bytes]:
        """The delta on the current table, or all of it anew where the chain is at its longest."""
        below = await self._manifest(parent)
        deltas = 0 if below is None else below.deltas
        if deltas < DELTAS:
            return await asyncio.to_thread(self._encoded, self._rows, parent, deltas + 1)
        loaded = await load_table(self._store, self._backbone, self._side, parent)
        return await self.full(await asyncio.to_thread(self._flat, loaded.table))

    async def again(self, parent: str, current: str) -> tuple[FeatureLayer, bytes]:
        """The delta whose parent is not current any more: fine only if this very delta took its place."""
        served = await self._manifest(current)
        if served is not None and served.parent == parent:
            layer, content = await asyncio.to_thread(self._encoded, self._rows, parent, served.deltas)
            if layer.revision == current:
                return layer, content
        raise RecordConflict(
            f"the current table of {self._side} is {current}, not {parent}: make the delta for that one, or publish a "
            "full table"
        )

    async def _manifest(self, revision: str) -> FeatureManifest | None:
        """What a layer says of itself; None for the file of the bundle."""
        return await asyncio.to_thread(read_manifest, await self._store.map(revision))

    def _encoded(self, rows: Delta, parent: str | None, deltas: int) -> tuple[FeatureLayer, bytes]:
        manifest = FeatureManifest(
            side=self._side,
            layer="full" if parent is None else "delta",
            parent=parent,
            deltas=deltas,
            fingerprint=self._backbone.fingerprint,
            rows=0,
            unknown_values=dict(self._unknown_values),
            divisions={division.name: list(division.domains) for division in self._divisions},
        )
        content = encode_layer(manifest, rows)
        return decode_layer(content, self._backbone.manifest), content

    def _flat(self, table: LayeredTable) -> Delta:
        flat = table.under([self._rows]).flat()
        return Delta(flat.index, flat.columns, flat.divisions, RawIndex.from_values([]))
