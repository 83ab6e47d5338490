"""What a new domain stands on, as a store has it now: backbone, feature tables, and whether the name is free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from adapters_store.artifact import Adapter, decode_adapter, decode_fusion
from adapters_store.backbone import Backbone as Bundle
from adapters_store.errors import ArtifactError, BlobMissing, DoesNotFit, StoreUnavailable
from adapters_store.feature_tables import SIDES, LoadedTable, Side, load_table, side_divisions, side_fields
from adapters_store.ids import check_domain
from adapters_store.records import DomainRecord
from adapters_store.releases import effective
from adapters_store.store import AdapterStore
from features.fields import Division
from features.index import RawIndex
from features.layers import Delta
from features.parquet import read_parquet
from features.vocabulary import Vocabulary
from training.newcomer.errors import BadRows, DomainTaken, NothingLive
from training.newcomer.fused import Pins

Over = Literal["none", "replace", "continue"]
GOES_ON = ("lora", "fused")
"""Kinds that training goes on from, and that a replacement is judged against."""


@dataclass(frozen=True)
class Added:
    """Users or items that no table knew.

    Args:
        side: whose.
        rows: what a layer on the current table holds.
        unknown_values: field to how many values of the file the vocabulary does not have.
        known: ids of the file that the table has; they stay as they are, for other domains are scored by them.
    """

    side: Side
    rows: Delta
    unknown_values: Mapping[str, int]
    known: int


@dataclass(frozen=True)
class Ground:
    """What a new domain is trained and published on.

    Args:
        domain: its id.
        bundle: the default backbone.
        vocabulary: of the backbone.
        tables: the current feature tables, those of the bundle where none were published.
        record: of the domain, if there ever was one.
        live: revision that scores the domain now.
        begun: its adapter, where training is to go on from it.
        replaced: its adapter, where another is to take its place and it can be scored here.
        pins: what that adapter pins.
        pointer: generation of the release pointer, which `live` was read under.
        added: users and items on top of the tables.
    """

    domain: str
    bundle: Bundle
    vocabulary: Vocabulary
    tables: Mapping[Side, LoadedTable]
    record: DomainRecord | None = None
    live: str | None = None
    begun: Adapter | None = None
    replaced: Adapter | None = None
    pins: Pins = field(default_factory=Pins)
    pointer: int = 0
    added: Mapping[Side, Added] = field(default_factory=dict)

    @property
    def division(self) -> Division:
        """The natural division, which the domain joins."""
        return natural_division(self.bundle)

    @property
    def rival(self) -> Adapter | None:
        """What the gate judges against; None is the backbone."""
        return self.begun if self.begun is not None else self.replaced

    @property
    def fused_divisions(self) -> tuple[Division, ...]:
        """The auxiliary divisions that the rival fuses, in its order."""
        if self.rival is None:
            return ()
        by_name = {division.name: division for division in self.bundle.manifest.divisions}
        return tuple(by_name[name] for name in self.rival.manifest.auxiliary)

    def with_files(self, files: Mapping[Side, Path]) -> Ground:
        """The same with the unknown ids of these files.

        Args:
            files: side to its parquet file, in the form that `espalier features publish` takes.

        Raises:
            BadTable: a file cannot be read, lacks a column, or a column does not hold what it must.
            BadRows: a file deletes ids.
        """
        return replace(self, added={side: self._added(side, path) for side, path in files.items()})

    def _added(self, side: Side, path: Path) -> Added:
        manifest = self.bundle.manifest
        read = read_parquet(path, side_fields(manifest, side), side_divisions(manifest, side), self.vocabulary, True)
        if len(read.rows.deleted):
            raise BadRows(f"{path.name} deletes {len(read.rows.deleted):,} ids; a new domain only adds some")
        found = self.tables[side].table.find(read.rows.index.values())
        return Added(side, _taken(read.rows, found < 0), read.unknown_values, int(np.count_nonzero(found >= 0)))


async def read_ground(store: AdapterStore, domain: str, over: Over = "none") -> Ground:
    """Read what a store has, and refuse a name that is taken.

    Args:
        store: where the domain is to be published.
        domain: its id.
        over: what becomes of an adapter that serves already: `none`, the domain must not have one; `replace`, it is
            trained anew; `continue`, training goes on from it.

    Raises:
        BadId: `domain` is no domain id.
        DomainTaken: it serves already and must not, or belongs to another division.
        NothingLive: there is nothing to go on from.
        ArtifactError: the bundle or a table is refused.
        StoreUnavailable: the store cannot be read, or has no backbone.
    """
    check_domain(domain)
    default = (await store.backbone_record()).default
    if default is None:
        raise StoreUnavailable("the store has no default backbone: publish one with `espalier publish RUN --store URL`")
    bundle = await store.bundle(default)
    record = await store.domain(domain)
    live, pointer = await _live(store, record, domain)
    _check_free(domain, bundle, record, live, over)
    begun, replaced, pins = None, None, Pins()
    if over == "continue":
        begun, pins = await _begun(store, bundle, domain, live)
    elif over == "replace":
        replaced, pins = await _replaced(store, bundle, live)
    tables: dict[Side, LoadedTable] = {}
    for side in SIDES:
        tables[side] = await load_table(
            store, bundle, side, (await store.feature_record(bundle.fingerprint, side)).revision
        )
    vocabulary = Vocabulary.from_tensors(bundle.tensors("vocabulary"), bundle.manifest.fields)
    return Ground(domain, bundle, vocabulary, tables, record, live, begun, replaced, pins, pointer)


def natural_division(bundle: Bundle) -> Division:
    """The division that a request's domain_id names."""
    return next(division for division in bundle.manifest.divisions if division.natural)


async def _live(store: AdapterStore, record: DomainRecord | None, domain: str) -> tuple[str | None, int]:
    """The revision that scores a domain, its own or the one of the fleet's release; and the pointer's generation."""
    pointer = await store.pointer()
    release = None if pointer.release is None else await store.release(pointer.release)
    return effective(record, pointer, release, domain), pointer.generation


async def _begun(store: AdapterStore, bundle: Bundle, domain: str, live: str | None) -> tuple[Adapter, Pins]:
    """The live adapter and what it pins, if training can go on from it."""
    if live is None:
        raise NothingLive(f"domain {domain!r} serves no revision that training could go on from: leave --continue out")
    adapter = decode_adapter(await store.get(live))
    manifest = adapter.manifest
    if manifest.kind not in GOES_ON:
        raise NothingLive(
            f"domain {domain!r} serves kind {manifest.kind!r}; training goes on from kinds 'lora' and 'fused' alone: "
            "--replace trains it anew"
        )
    if manifest.fingerprint != bundle.fingerprint:
        raise NothingLive(
            f"revision {live} of domain {domain!r} is of backbone fingerprint {manifest.fingerprint}; the default has "
            f"{bundle.fingerprint}: --replace trains it anew"
        )
    try:
        _check_divisions(bundle, adapter)
        return adapter, await _pins(store, adapter)
    except DoesNotFit as error:
        raise NothingLive(f"revision {live} of domain {domain!r}: {error}: --replace trains it anew") from None
    except BlobMissing as error:
        raise NothingLive(
            f"revision {live} of domain {domain!r} pins what the store does not have ({error}): --replace trains it "
            "anew"
        ) from None


async def _replaced(store: AdapterStore, bundle: Bundle, live: str | None) -> tuple[Adapter | None, Pins]:
    """The live adapter that another is to replace; None where nothing is live, or nothing that scores here."""
    if live is None:
        return None, Pins()
    try:
        adapter = decode_adapter(await store.get(live))
        if adapter.manifest.kind not in GOES_ON or adapter.manifest.fingerprint != bundle.fingerprint:
            return None, Pins()
        _check_divisions(bundle, adapter)
        return adapter, await _pins(store, adapter)
    except (ArtifactError, BlobMissing):
        return None, Pins()  # to replace it is the way out


def _check_divisions(bundle: Bundle, adapter: Adapter) -> None:
    """Hold what an adapter fuses to the bundle: divisions are outside its fingerprint, so another may lack some."""
    known = {division.name: division.domains for division in bundle.manifest.divisions}
    auxiliary = adapter.manifest.auxiliary
    for name in auxiliary:
        if name not in known:
            raise DoesNotFit(f"it fuses division {name!r}, which the backbone's bundle does not have")
    for pair in adapter.manifest.pairs:
        for name, domain in zip(auxiliary, pair.domains, strict=True):
            if domain is not None and domain not in known[name]:
                raise DoesNotFit(f"it has norms for domain {domain!r}, which the bundle's division {name!r} lacks")


async def _pins(store: AdapterStore, adapter: Adapter) -> Pins:
    """What an adapter pins."""
    revisions = adapter.manifest.fuses
    auxiliaries = {name: decode_adapter(await store.get(revision)) for name, revision in revisions.items()}
    fusion = adapter.manifest.fusion
    return Pins(auxiliaries, None if fusion is None else decode_fusion(await store.get(fusion)))


def _check_free(domain: str, bundle: Bundle, record: DomainRecord | None, live: str | None, over: Over) -> None:
    for division in bundle.manifest.divisions:
        if domain in division.domains and not division.natural:
            raise DomainTaken(
                f"{domain!r} is a domain of the auxiliary division {division.name!r}: choose another name"
            )
    own = natural_division(bundle).name
    if record is not None and record.division != own:
        raise DomainTaken(f"{domain!r} is in use by division {record.division!r}, not by {own!r}: choose another name")
    if live is not None and over == "none":
        raise DomainTaken(
            f"domain {domain!r} serves revision {live} already: --continue trains on from it, --replace trains anew"
        )


def _taken(rows: Delta, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Delta:
    """Some rows of a layer, in the order that an index of them alone has."""
    places = np.flatnonzero(chosen)
    values = rows.index.values()
    kept = values[places] if isinstance(values, np.ndarray) else [values[place] for place in places.tolist()]
    index = RawIndex.from_values(kept)
    ordered = places[np.argsort(index.find(kept))] if len(places) else places
    divisions = {name: column[ordered] for name, column in rows.divisions.items()}
    return Delta(index, rows.columns.take(ordered), divisions, rows.deleted)
