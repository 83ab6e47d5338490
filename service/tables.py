"""From a request's ids to encoded rows, and from rows to the auxiliary domains that they are in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store.backbone import Backbone
from adapters_store.feature_tables import SIDES, BlobMapper, LoadedTable, bundled_table, load_table
from adapters_store.folding import Combination
from adapters_store.records import FeatureRecord
from features.context import encode_context, encode_domain
from features.errors import ContextError
from features.overlay import OverlaidSide, Overlay
from features.question import Question
from features.rows import EncodedRows
from features.vocabulary import Vocabulary
from service.errors import InvalidContext

Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Where a request's ids stand.

    Args:
        user: the user's position in the table, int64 (1,), -1 unknown.
        items: positions in the item table, int64 (n,), -1 unknown.
        asked: the raw ids of user and items.
    """

    user: Positions
    items: Positions
    asked: tuple[Question, Question]


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A request's rows and where they come from.

    Args:
        rows: one row for each item.
        user: the user's position in the table, int64 (1,), -1 unknown.
        items: positions in the item table, int64 (n,), -1 unknown.
        context: as the request gave it.
        asked: the raw ids of user and items, for an id overlay to look up.
        overlaid_user: the user's position in the overlay of the adapter that scores, int64 (1,), -1 not there; None
            without one.
        overlaid_items: the items', int64 (n,).
    """

    rows: EncodedRows
    user: Positions
    items: Positions
    context: Mapping[str, Any]
    asked: tuple[Question, Question]
    overlaid_user: Positions | None = None
    overlaid_items: Positions | None = None

    @property
    def unknown_user(self) -> bool:
        """Whether the user is scored as out of vocabulary: neither the table nor the adapter's overlay has it."""
        return bool(_unknown(self.user, self.overlaid_user)[0])

    @property
    def unknown_items(self) -> list[int]:
        """Positions in item_ids of the items that are."""
        return np.flatnonzero(_unknown(self.items, self.overlaid_items)).tolist()

    def overlaid_by(self, overlay: Overlay) -> Encoded:
        """The same rows as an adapter with this id overlay scores them."""
        user, items = overlay.find("user", self.asked[0]), overlay.find("item", self.asked[1])
        found: dict[OverlaidSide, Positions] = {}
        if user is not None:
            found["user"] = user.repeat(self.rows.n)
        if items is not None:
            found["item"] = items
        rows = EncodedRows(self.rows.n, self.rows.arrays, found)
        return Encoded(rows, self.user, self.items, self.context, self.asked, user, items)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Rows of a request that are in the same auxiliary domains.

    Args:
        combination: the auxiliary domain (None: none) of each division asked for.
        positions: which rows, int64; None means all.
    """

    combination: Combination
    positions: Positions | None


class FeatureTables:
    """A vocabulary and a pair of feature tables. Immutable: whoever holds a reference holds these revisions.

    Args:
        backbone: the bundle that the vocabulary is read from, and the tables that are not given.
        loaded: side -> its table, where another than the bundle's own serves.
    """

    def __init__(self, backbone: Backbone, loaded: Mapping[str, LoadedTable] | None = None) -> None:
        manifest = backbone.manifest
        self.bundle = backbone.revision
        self.auxiliary_divisions = tuple(each.name for each in manifest.divisions if not each.natural)
        self._fields = tuple(manifest.fields)
        self._divisions = {division.name: division for division in manifest.divisions}
        self._vocabulary = Vocabulary.from_tensors(backbone.tensors("vocabulary"), self._fields)
        self._no_context = encode_context(self._fields, self._vocabulary, {})
        self._hold({side: (loaded or {}).get(side) or bundled_table(backbone, side) for side in SIDES})

    def _hold(self, loaded: Mapping[str, LoadedTable]) -> None:
        self.loaded = loaded
        self._users, self._items = loaded["users"].table, loaded["items"].table
        self.revisions = {side: table.revision for side, table in loaded.items()}

    def with_side(self, side: str, table: LoadedTable, revision: str | None = None) -> FeatureTables:
        """The same with another table of one side; this one stays as it is.

        Args:
            side: `users` or `items`.
            table: as `load_side` read it.
            revision: by which responses name it; None is the table's own.
        """
        changed = copy(self)
        changed._hold({**self.loaded, side: table})
        changed.revisions[side] = revision or table.revision
        return changed

    def encode(
        self, user_id: str | int, item_ids: Sequence[str | int], domain_id: str, context: Mapping[str, Any] | None
    ) -> Encoded:
        """Look up a request's ids and gather its rows.

        Raises:
            InvalidContext: a context value that its field cannot take.
        """
        return self.gather(self.find(user_id, item_ids), domain_id, context)

    def find(self, user_id: str | int, item_ids: Sequence[str | int]) -> Found:
        """Look up a request's ids."""
        asked = Question([user_id]), Question(item_ids)
        return Found(self._users.find(asked[0]), self._items.find(asked[1]), asked)

    def gather(self, found: Found, domain_id: str, context: Mapping[str, Any] | None) -> Encoded:
        """The rows of a request whose ids these tables have found.

        Raises:
            InvalidContext: a context value that its field cannot take.
        """
        user, items = found.user, found.items
        once = self._users.gather(user).join(encode_domain(self._fields, self._vocabulary, domain_id))
        once = once.join(self._encoded(context) if context else self._no_context)
        return Encoded(once.repeat(len(items)).join(self._items.gather(items)), user, items, context or {}, found.asked)

    def _encoded(self, context: Mapping[str, Any]) -> EncodedRows:
        try:
            return encode_context(self._fields, self._vocabulary, context)
        except ContextError as error:
            raise InvalidContext(str(error)) from error

    def without_context(self, rows: EncodedRows) -> EncodedRows:
        """The same rows as if the request had brought no context."""
        return replace(rows, arrays={**rows.arrays, **self._no_context.repeat(rows.n).arrays})

    def parts(self, encoded: Encoded, divisions: Sequence[str]) -> list[Part]:
        """Split a request by the auxiliary domains of its rows.

        Args:
            encoded: the request.
            divisions: names of the auxiliary divisions, in the order of a combination.

        Returns:
            One part, or one for each combination that occurs where a division is of the items; the positions of a
            combination that all rows have are None.
        """
        if not len(encoded.items):
            return [Part((None,) * len(divisions), None)]
        columns = [self._column(encoded, name) for name in divisions]
        lengths = {len(column) for column in columns}
        if lengths <= {1}:
            return [Part(self._named(divisions, [int(column[0]) for column in columns]), None)]
        full = [np.broadcast_to(column, len(encoded.items)) for column in columns]
        order = np.lexsort(full[::-1])
        differ = np.zeros(len(order) - 1, bool)
        for column in full:
            ordered = column[order]
            differ |= ordered[1:] != ordered[:-1]
        edges = np.flatnonzero(differ) + 1
        if not len(edges):
            return [Part(self._named(divisions, [int(column[0]) for column in full]), None)]
        return [
            Part(self._named(divisions, [int(column[positions[0]]) for column in full]), positions)
            for positions in (order[start:stop] for start, stop in pairwise([0, *edges.tolist(), len(order)]))
        ]

    def _column(self, encoded: Encoded, name: str) -> NDArray[np.integer[Any]]:
        """Position of the domain in its division, (n,) for a division of the items, else (1,); -1 = none."""
        division = self._divisions.get(name)
        if division is not None and division.of == "item":
            return self._items.division(name, encoded.items)
        if division is not None and division.of == "user":
            return self._users.division(name, encoded.user)
        if division is not None and division.of == "context":
            # the client names the domain itself: a rule over raw values would be training's to know
            domain = encoded.context.get(division.field or name)
            return np.array([division.domains.index(domain) if domain in division.domains else -1])
        return np.array([-1])

    def _named(self, divisions: Sequence[str], positions: Iterable[int]) -> Combination:
        return tuple(
            None if position < 0 else self._divisions[name].domains[position]
            for name, position in zip(divisions, positions, strict=True)
        )


class CurrentTables:
    """The pair of tables that serves now. A request takes `current` once, so that no response mixes two.

    Args:
        tables: to begin with.
    """

    def __init__(self, tables: FeatureTables) -> None:
        self.current = tables

    def swap(self, tables: FeatureTables) -> None:
        """Serve new requests from `tables`; those that run keep what they took."""
        self.current = tables


def _unknown(positions: Positions, overlaid: Positions | None) -> NDArray[np.bool_]:
    unknown = positions < 0
    return unknown if overlaid is None else unknown & (overlaid < 0)


async def load_side(
    reader: BlobMapper,
    backbone: Backbone,
    side: str,
    record: FeatureRecord | None,
    current: FeatureTables | None = None,
) -> tuple[LoadedTable, str]:
    """Read the table that a feature record names.

    Args:
        reader: where its layers are.
        backbone: whose table it is.
        side: `users` or `items`.
        record: None, or one without a revision: the bundle's own table.
        current: what serves now; layers that are part of it are not read again, so a delta costs its own size.

    Returns:
        The table for `FeatureTables.with_side`, and its revision.

    Raises:
        ArtifactError: a layer is refused; it is named.
        BlobMissing: a layer is not in the store.
        StoreUnavailable: the store cannot be read.
    """
    revision = None if record is None else record.revision
    loaded = None if current is None else current.loaded[side]
    table = await load_table(reader, backbone, side, revision, loaded)
    return table, table.revision
