"""What a new domain stands on, as a store has it now: backbone, feature tables, and whether the name is free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from adapters_store.backbone import Backbone as Bundle
from adapters_store.errors import StoreUnavailable
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
from training.newcomer.errors import BadRows, DomainTaken


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
        added: users and items on top of the tables.
    """

    domain: str
    bundle: Bundle
    vocabulary: Vocabulary
    tables: Mapping[Side, LoadedTable]
    record: DomainRecord | None = None
    live: str | None = None
    added: Mapping[Side, Added] = field(default_factory=dict)

    @property
    def division(self) -> Division:
        """The natural division, which the domain joins."""
        return natural_division(self.bundle)

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


async def read_ground(store: AdapterStore, domain: str, *, replace: bool = False) -> Ground:
    """Read what a store has, and refuse a name that is taken.

    Args:
        store: where the domain is to be published.
        domain: its id.
        replace: whether it may serve already.

    Raises:
        BadId: `domain` is no domain id.
        DomainTaken: it serves already, or belongs to another division.
        ArtifactError: the bundle or a table is refused.
        StoreUnavailable: the store cannot be read, or has no backbone.
    """
    check_domain(domain)
    default = (await store.backbone_record()).default
    if default is None:
        raise StoreUnavailable("the store has no default backbone: publish one with `espalier publish RUN --store URL`")
    bundle = await store.bundle(default)
    record = await store.domain(domain)
    live = await _live(store, record, domain)
    _check_free(domain, bundle, record, live, replace)
    tables: dict[Side, LoadedTable] = {}
    for side in SIDES:
        tables[side] = await load_table(
            store, bundle, side, (await store.feature_record(bundle.fingerprint, side)).revision
        )
    vocabulary = Vocabulary.from_tensors(bundle.tensors("vocabulary"), bundle.manifest.fields)
    return Ground(domain, bundle, vocabulary, tables, record, live)


def natural_division(bundle: Bundle) -> Division:
    """The division that a request's domain_id names."""
    return next(division for division in bundle.manifest.divisions if division.natural)


async def _live(store: AdapterStore, record: DomainRecord | None, domain: str) -> str | None:
    """The revision that scores a domain: its own, or the one of the fleet's release."""
    pointer = await store.pointer()
    release = None if pointer.release is None else await store.release(pointer.release)
    return effective(record, pointer, release, domain)


def _check_free(domain: str, bundle: Bundle, record: DomainRecord | None, live: str | None, replace: bool) -> None:
    for division in bundle.manifest.divisions:
        if domain in division.domains and not division.natural:
            raise DomainTaken(
                f"{domain!r} is a domain of the auxiliary division {division.name!r}: choose another name"
            )
    own = natural_division(bundle).name
    if record is not None and record.division != own:
        raise DomainTaken(f"{domain!r} is in use by division {record.division!r}, not by {own!r}: choose another name")
    if live is not None and not replace:
        raise DomainTaken(
            f"domain {domain!r} serves revision {live} already: --replace puts the new adapter in its place"
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
