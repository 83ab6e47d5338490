"""From a request's raw ids, or from golden rows, to the vectors that the network starts with."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.oracle_bundle import OracleBundle
from benchmarks.oracle_files import AdapterFile, Array, Buckets, raw_values


class OracleInputs(OracleBundle):
    """Looks up one field after the other."""

    @cached_property
    def words(self) -> dict[str, dict[str, int]]:
        return {
            f["name"]: Buckets(self.vocabulary[f"{f['name']}.buckets"])
            if f"{f['name']}.buckets" in self.vocabulary
            else raw_values(self.vocabulary, f["name"])
            for f in self.fields
            if f["kind"] != "dense"
        }

    def field_vectors(
        self, field: Mapping[str, Any], user: str, items: Sequence[str], domain: str, context: Mapping[str, Any]
    ) -> Array:
        """(n, width) of one field, n = len(items)."""
        name, kind = field["name"], field["kind"]
        if field["of"] in ("user", "item"):
            ids = items if field["of"] == "item" else [user]
            out = np.concatenate([self.stored(field, field["of"], i) for i in ids])
            return out if field["of"] == "item" else np.repeat(out, len(items), axis=0)
        raw = domain if field["of"] == "domain" else context.get(name)
        if kind == "dense":
            value = field["missing"]
            if raw is not None:
                value = (float(raw) - field["normalization"]["shift"]) / field["normalization"]["scale"]
            one = self.scalars(field, np.array([value]))
        else:
            table = self.table(field)
            values = raw if isinstance(raw, list) else [] if raw is None and kind == "multi_hot" else [raw]
            rows = [self.words[name].get(str(v), -1) + 1 if v is not None else 0 for v in values]
            one = table[rows].mean(0, keepdims=True) if rows else np.zeros((1, table.shape[1]))
        return np.repeat(one, len(items), axis=0)

    def stored(self, field: Mapping[str, Any], side: str, entity: str) -> Array:
        """(1, width): a field of one known or unknown user or item."""
        name, kind = field["name"], field["kind"]
        columns, position = self.sides[side], self.index[side].get(entity)
        if kind == "dense":
            value = field["missing"] if position is None else float(columns[f"column.{name}"][position])
            return self.scalars(field, np.array([np.float64(np.float32(value))]))
        table = self.table(field)
        if kind == "sparse":
            return table[[0 if position is None else int(columns[f"column.{name}"][position])]]
        if position is None:
            return np.zeros((1, table.shape[1]))
        offsets = columns[f"column.{name}.offsets"]
        rows = columns[f"column.{name}.values"][offsets[position] : offsets[position + 1]]
        return table[rows].mean(0, keepdims=True) if len(rows) else np.zeros((1, table.shape[1]))

    def vectors(self, user: str, items: Sequence[str], domain: str, context: Mapping[str, Any] | None = None) -> Array:
        return self.joined([self.field_vectors(f, user, items, domain, context or {}) for f in self.fields])

    def golden_vectors(self, tensors: Mapping[str, Array]) -> Array:
        """(n, k) from `inputs.<field>` tensors (already without their prefix's `golden.`)."""
        parts = []
        for field in self.fields:
            name = field["name"]
            if field["kind"] == "dense":
                parts.append(self.scalars(field, tensors[f"inputs.{name}"].astype(np.float64)))
                continue
            table = self.table(field)
            if field["kind"] == "sparse":
                parts.append(table[tensors[f"inputs.{name}"]])
                continue
            offsets, values = tensors[f"inputs.{name}.offsets"], tensors[f"inputs.{name}.values"]
            lists = [values[a:b] for a, b in itertools.pairwise(offsets)]
            parts.append(np.stack([table[v].mean(0) if len(v) else np.zeros(table.shape[1]) for v in lists]))
        return self.joined(parts)

    def table(self, field: Mapping[str, Any]) -> Array:
        """(V, width) of one field; where there are first-order weights, each row's own is one column more."""
        table = self.weights[f"embedding.{field['name']}"]
        if not self.first_order:
            return table
        own = self.weights[f"first_order.{field['name']}"]
        return np.column_stack([table, table @ own if field.get("frozen") else own])

    def scalars(self, field: Mapping[str, Any], values: Array) -> Array:
        """(n, 1) of a dense field, or (n, 2) with what its first-order weight makes of it."""
        if not self.first_order:
            return values.reshape(-1, 1)
        return np.column_stack([values, values * self.weights[f"first_order.{field['name']}"][0]])

    def joined(self, parts: Sequence[Array]) -> Array:
        """(n, k) of all fields; the first-order sums, where there are any, are the last column."""
        if not self.first_order:
            return np.concatenate(parts, axis=1)
        return np.column_stack([*(part[:, :-1] for part in parts), sum(part[:, -1] for part in parts)])

    def auxiliary_domain(self, division: str, user: str, item: str) -> str | None:
        """The domain of an auxiliary division that this user (or item) is in."""
        entry = next(d for d in self.manifest["divisions"] if d["name"] == division)
        entity = user if entry["of"] == "user" else item
        position = self.index[entry["of"]].get(entity)
        if position is None:
            return None
        number = int(self.sides[entry["of"]][f"division.{division}"][position])
        return entry["domains"][number] if number >= 0 else None

    def replace(self, x: Array, row: int, side: str, embedding: Array, stood: Array) -> None:
        """Put an overlay's embedding of an id over that which stood there; first-order weights, if any, come last."""
        at = next(i for i, field in enumerate(self.fields) if field is self.id_field(side))
        start = sum(field["width"] for field in self.fields[:at])
        width = self.fields[at]["width"]
        x[row, start : start + width] = embedding[:width]
        if self.first_order:
            x[row, -1] += embedding[width] - stood[width]

    def overlaid(self, x: Array, adapter: AdapterFile | None, user: str, items: Sequence[str]) -> Array:
        """x with the embeddings that the adapter's overlay has of these ids, one after the other."""
        x = x.copy()
        for side, known in (adapter.overlay if adapter else {}).items():
            for row, item in enumerate(items):
                raw = item if side == "item" else user
                if raw in known:
                    self.replace(x, row, side, known[raw], self.stored(self.id_field(side), side, raw)[0])
        return x
