"""The float64 oracle: what Espalier must answer, written apart from it.

It reads artifact files with its own few lines (json, struct, numpy), computes the literal equations of the MultiLoRA
paper (Eq. 7 to 11) and MAMDR's theta_S + theta_i without folding anything, and imports nothing of ours. A disagreement
is a fault on one side.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Combination = tuple[str | None, ...]

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "u1", "I8": "i1"}


def read_safetensors(source: Path | bytes) -> tuple[dict[str, Array], dict[str, Any]]:
    """All tensors of one safetensors file and the JSON in its `espalier` metadata entry."""
    raw = source if isinstance(source, bytes) else source.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    body = raw[8 + size :]
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        if entry["dtype"] == "BF16":
            high = np.frombuffer(body[begin:end], "<u2").astype(np.uint32) << 16
            flat = high.view(np.float32)
        else:
            flat = np.frombuffer(body[begin:end], DTYPES[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"])
    return tensors, json.loads(metadata["espalier"]) if "espalier" in metadata else {}


def raw_values(tensors: Mapping[str, Array], prefix: str) -> dict[str, int]:
    """Raw value, as a string, to its position."""
    if f"{prefix}.values" in tensors:
        return {str(int(value)): i for i, value in enumerate(tensors[f"{prefix}.values"])}
    text = tensors[f"{prefix}.bytes"].tobytes()
    ends = tensors[f"{prefix}.offsets"].tolist()
    if len(ends) and ends[0] != 0:
        ends = [0, *ends]
    return {text[a:b].decode(): i for i, (a, b) in enumerate(itertools.pairwise(ends))}


class Buckets(dict[str, int]):
    """A hashed vocabulary: every raw value has the position that blake2b of 8 bytes names."""

    def __init__(self, buckets: Array) -> None:
        super().__init__()
        self.buckets = int(buckets[0])

    def get(self, raw: str, default: Any = None) -> int:
        hashed = hashlib.blake2b(raw.encode(), digest_size=8).digest()
        return sum(byte << 8 * i for i, byte in enumerate(hashed)) % self.buckets


def sigmoid(x: Array) -> Array:
    """Logits to probabilities, elementwise."""
    return 1.0 / (1.0 + np.exp(-x))


class AdapterFile:
    """One adapter or fusion artifact."""

    def __init__(self, source: Path | bytes) -> None:
        tensors, self.manifest = read_safetensors(source)
        self.tensors = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in tensors.items()}

    def lora(self, module: str, x: Array) -> Array:
        """Eq. 7 and 8 without the backbone's part: s * (U (D x)) + b."""
        t = self.tensors
        low = x @ t[f"{module}.down"].T
        return (low @ t[f"{module}.up"].T) * t[f"{module}.scale"] + t[f"{module}.shift"]

    @cached_property
    def overlay(self) -> dict[str, dict[str, Array]]:
        """Side to raw id, as a string, to this domain's embedding of it (E,); a first-order weight comes last."""
        found = {}
        for side in ("user", "item"):
            t, name = self.tensors, f"overlay.{side}."
            if f"{name}rows" not in t:
                continue
            form = "bytes" if f"{name}offsets" in t else "values"
            index = {f"ids.{form}": t[f"{name}ids"], "ids.offsets": t.get(f"{name}offsets")}
            known = raw_values({key: value for key, value in index.items() if value is not None}, "ids")
            rows = np.column_stack([t[part] for part in (f"{name}rows", f"{name}first_order") if part in t])
            found[side] = {raw: rows[i] for raw, i in known.items()}
        return found


class Oracle:
    """Scores like the service, from a bundle folder and adapter files, in float64."""

    def __init__(self, bundle: Path) -> None:
        self.manifest = json.loads((bundle / "manifest.json").read_text())
        self.fields = self.manifest["fields"]
        weights, _ = read_safetensors(bundle / "weights.safetensors")
        self.weights = {name: tensor.astype(np.float64) for name, tensor in weights.items()}
        self.vocabulary, _ = read_safetensors(bundle / "vocabulary.safetensors")
        self.sides = {side: read_safetensors(bundle / f"{side}s.safetensors")[0] for side in ("user", "item")}
        self.index = {side: raw_values(tensors, "index") for side, tensors in self.sides.items()}
        self.kind = str(self.manifest["kind"])
        self.layers = len([n for n in weights if n.startswith("tower.") and n.count(".") == 2 and n.endswith("bias")])
        self.first_order = any(name.startswith("first_order.") for name in weights)
        eps = self.manifest.get("norm_eps", 1e-5)
        self.eps = float(eps)

    # -- deltas and overlays --------------------------------------------------------------------------------------

    def under(self, adapter: AdapterFile | None) -> Oracle:
        """This oracle with theta_S + theta_i for its weights; itself where the adapter has no deltas."""
        deltas = {
            k.removeprefix("delta."): v for k, v in (adapter.tensors if adapter else {}).items() if k[:5] == "delta"
        }
        if not deltas:
            return self
        whole = copy.copy(self)
        whole.weights = {name: weight + deltas.pop(name, 0.0) for name, weight in self.weights.items()}
        assert not deltas, f"deltas of nothing: {sorted(deltas)}"
        return whole

    def id_field(self, side: str) -> dict[str, Any]:
        """The id field of a side."""
        return next(field for field in self.fields if field.get("id") and field["of"] == side)

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

    # -- inputs ---------------------------------------------------------------------------------------------------

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

    def divisions_of(self, side: str) -> list[dict[str, Any]]:
        return [d for d in self.manifest["divisions"] if not d["natural"] and d["of"] == side]

    def auxiliary_domain(self, division: str, user: str, item: str) -> str | None:
        """The domain of an auxiliary division that this user (or item) is in."""
        entry = next(d for d in self.manifest["divisions"] if d["name"] == division)
        entity = user if entry["of"] == "user" else item
        position = self.index[entry["of"]].get(entity)
        if position is None:
            return None
        number = int(self.sides[entry["of"]][f"division.{division}"][position])
        return entry["domains"][number] if number >= 0 else None

    # -- network --------------------------------------------------------------------------------------------------

    def norm(self, tensors: Mapping[str, Array], prefix: str, h: Array) -> Array:
        mean, var = tensors[f"{prefix}.norm.mean"], tensors[f"{prefix}.norm.var"]
        scaled = (h - mean) / np.sqrt(var + self.eps)
        return scaled * tensors[f"{prefix}.norm.weight"] + tensors[f"{prefix}.norm.bias"]

    def logits(
        self,
        x: Array,
        adapter: AdapterFile | None = None,
        auxiliaries: Sequence[AdapterFile] = (),
        fusion: AdapterFile | None = None,
        norm_prefix: str = "",
    ) -> Array:
        """Logits (n,) before calibration; `auxiliaries` are those present for these rows, in division order."""
        if adapter is not None and adapter.manifest["kind"] == "delta":
            return self.under(adapter).logits(x)

        def mapped(module: str, v: Array) -> Array:
            """W0 v + b0 and what the adapters add to it."""
            h0 = v @ self.weights[f"{module}.weight"].T + self.weights.get(f"{module}.bias", 0.0)
            if adapter is None or module not in adapter.manifest["ranks"]:
                return np.asarray(h0)
            return h0 + self.fused(module, v, h0, [adapter, *auxiliaries], adapter.manifest["mode"], fusion)

        def normed(module: str, h: Array) -> Array:
            own = adapter is not None and module in adapter.manifest["ranks"]
            tensors = adapter.tensors if adapter is not None and own else self.weights
            return self.norm(tensors, f"{norm_prefix}{module}" if own else module, h)

        return self.through(x, mapped, normed)

    def through(self, x: Array, mapped: Callable[[str, Array], Array], normed: Callable[[str, Array], Array]) -> Array:
        """Logits (n,) of the network whose linear maps and norms are these, by module."""
        k = sum(field["width"] for field in self.fields)
        first = x[:, k] if self.first_order else 0.0
        x = x[:, :k]
        v, beside = x, []
        if self.kind in ("dcn", "dcn_v2"):
            beside = [self.crossed(x, mapped)]
        elif self.kind == "autoint":
            beside = [self.attended(self.by_field(x), mapped)]
        elif self.kind == "deepfm":
            first = first + self.pairs(x).sum(1)
        elif self.kind == "neurfm":
            v = self.pairs(x)
        for layer in range(self.layers):
            module = f"tower.{layer}"
            h = mapped(module, v)
            if f"{module}.norm.mean" in self.weights:
                h = normed(module, h)
            v = np.maximum(h, 0.0)
        out = np.concatenate([*beside, v], axis=1) @ self.weights["output.weight"].T + self.weights["output.bias"]
        return np.asarray(out[:, 0] + first)

    def by_field(self, x: Array) -> list[Array]:
        """A vector (n, E) of each field: its own, or its product with the field's `factor`."""
        parts, at = [], 0
        for field in self.fields:
            part = x[:, at : at + field["width"]]
            at += field["width"]
            factor = self.weights.get(f"factor.{field['name']}")
            parts.append(part if factor is None else part @ factor)
        return parts

    def pairs(self, x: Array) -> Array:
        """Sum over all pairs of fields of the product of their vectors (n, E), pair by pair."""
        products = [a * b for a, b in itertools.combinations(self.by_field(x), 2)]
        return np.asarray(np.sum(products, axis=0))

    def crossed(self, x0: Array, mapped: Callable[[str, Array], Array]) -> Array:
        """The cross network (n, k): x' = x0 * (x . w) + b + x, or x0 * (W x + b) + x."""
        x = x0
        for layer in range(int(self.manifest["cross_layers"])):
            if self.kind == "dcn_v2":
                x = x0 * mapped(f"cross.{layer}", x) + x
            else:
                weight, bias = self.weights[f"cross.{layer}.weight"], self.weights[f"cross.{layer}.bias"]
                x = np.stack([a * np.dot(b, weight) + bias + b for a, b in zip(x0, x, strict=True)])
        return x

    def attended(self, fields: Sequence[Array], mapped: Callable[[str, Array], Array]) -> Array:
        """The attention over fields (n, F * heads * head width), field by field and head by head."""
        shape = self.manifest["attention"]
        for layer in range(int(shape["layers"])):
            query, key, value, residual = (
                [mapped(f"attention.{layer}.{name}", v) for v in fields]
                for name in ("query", "key", "value", "residual")
            )
            out = []
            for m in range(len(fields)):
                heads = []
                for h in range(int(shape["heads"])):
                    at = slice(h * shape["head_width"], (h + 1) * shape["head_width"])
                    energy = np.stack([(query[m][:, at] * one[:, at]).sum(1) for one in key], axis=1)
                    weight = np.exp(energy - energy.max(1, keepdims=True))
                    weight /= weight.sum(1, keepdims=True)
                    heads.append(sum(weight[:, [i]] * one[:, at] for i, one in enumerate(value)))
                out.append(np.maximum(np.concatenate(heads, axis=1) + residual[m], 0.0))
            fields = out
        return np.concatenate(list(fields), axis=1)

    def fused(
        self, module: str, x: Array, h0: Array, loras: Sequence[AdapterFile], mode: str, fusion: AdapterFile | None
    ) -> Array:
        """Eq. 10 and the sum inside Eq. 11 over the divisions that are present."""
        outputs = np.stack([lora.lora(module, x) for lora in loras])  # (m, n, d)
        if mode in ("add", "single"):
            return np.asarray(outputs.sum(0) if mode == "add" else outputs[0])
        if mode == "avg":
            return np.asarray(outputs.mean(0))
        assert fusion is not None, "attention without its fusion"
        query, key = fusion.tensors[f"fusion.{module}.query"], fusion.tensors[f"fusion.{module}.key"]
        rank = query.shape[0]
        divisor = rank if fusion.manifest["divisor"] == "r" else np.sqrt(rank)
        energy = np.stack([((h0 @ query.T) * (h @ key.T)).sum(1) for h in outputs]) / divisor  # (m, n)
        energy -= energy.max(0)
        w = np.exp(energy) / np.exp(energy).sum(0)
        return np.asarray((w[:, :, None] * outputs).sum(0))

    def golden_logits(
        self,
        adapter: AdapterFile,
        auxiliaries: Mapping[str, AdapterFile] | None = None,
        fusion: AdapterFile | None = None,
    ) -> Array:
        """Logits (32,) of the adapter's own golden rows."""
        inputs = {k.removeprefix("golden."): v for k, v in adapter.tensors.items() if k.startswith("golden.inputs.")}
        whole = self.under(adapter)
        x = whole.golden_vectors(inputs)
        for side, known in adapter.overlay.items():
            embeddings, field = list(known.values()), self.id_field(side)
            stood = whole.table(field)[inputs[f"inputs.{field['name']}"]]
            for row, position in enumerate(adapter.tensors[f"golden.overlay.{side}"].tolist()):
                if position >= 0:
                    self.replace(x, row, side, embeddings[position], stood[row])
        names = adapter.manifest.get("auxiliary") or []
        domains = adapter.manifest.get("golden_divisions") or {}
        columns = [
            [domains[n][i] if i >= 0 else None for i in adapter.tensors[f"golden.division.{n}"].tolist()] for n in names
        ]
        combinations = [tuple(column[i] for column in columns) for i in range(len(x))]
        out = np.empty(len(x))
        for combination in dict.fromkeys(combinations):
            rows = [i for i, c in enumerate(combinations) if c == combination]
            present = [(auxiliaries or {})[d] for d in combination if d is not None]
            out[rows] = self.logits(x[rows], adapter, present, fusion, self.norm_of(adapter, combination))
        return out

    @staticmethod
    def norm_of(adapter: AdapterFile, present: Combination) -> str:
        """Prefix of the norm that serves this combination: its pair, or with the last divisions dropped."""
        pairs = {tuple(p["domains"]): i for i, p in enumerate(adapter.manifest.get("pairs") or [])}
        left = list(present)
        while any(left):
            if tuple(left) in pairs:
                return f"pair.{pairs[tuple(left)]}."
            last = max(i for i, domain in enumerate(left) if domain is not None)
            left[last] = None
        return ""

    # -- the answer -----------------------------------------------------------------------------------------------

    def score(
        self,
        user: str,
        domain: str,
        items: Sequence[str],
        adapter: AdapterFile | None = None,
        auxiliaries: Mapping[str, AdapterFile] | None = None,
        fusion: AdapterFile | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> Array:
        """Probabilities (n,) for one request; `auxiliaries` by domain: those that the adapter pins."""
        whole = self.under(adapter)
        x = whole.overlaid(whole.vectors(user, items, domain, context), adapter, user, items)
        if adapter is None:
            return sigmoid(self.logits(x))
        names = adapter.manifest.get("auxiliary") or []
        out = np.empty(len(items))
        combinations = [
            tuple(d if d in (auxiliaries or {}) else None for d in (self.auxiliary_domain(n, user, i) for n in names))
            for i in items
        ]
        for combination in dict.fromkeys(combinations):
            rows = [i for i, c in enumerate(combinations) if c == combination]
            present = [(auxiliaries or {})[d] for d in combination if d is not None]
            logits = self.logits(x[rows], adapter, present, fusion, self.norm_of(adapter, combination))
            calibration = adapter.manifest.get("calibration") or {"slope": 1.0, "intercept": 0.0}
            out[rows] = sigmoid(calibration["slope"] * logits + calibration["intercept"])
        return out
