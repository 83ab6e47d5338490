"""Artifact files as the oracle reads them: a few lines of json, struct and numpy, apart from Espalier's reader."""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

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
            if f"{name}ids" not in t:
                continue
            form = "bytes" if f"{name}offsets" in t else "values"
            index = {f"ids.{form}": t[f"{name}ids"], "ids.offsets": t.get(f"{name}offsets")}
            known = raw_values({key: value for key, value in index.items() if value is not None}, "ids")
            weights = [t[f"{name}first_order"]] if f"{name}first_order" in t else []
            rows = np.column_stack([self.embeddings(name), *weights])
            found[side] = {raw: rows[i] for raw, i in known.items()}
        return found

    def embeddings(self, name: str) -> Array:
        """An overlay's rows (n, E), decoded bit by bit where they are coded."""
        t = self.tensors
        if f"{name}rows" in t:
            return t[f"{name}rows"]
        codes, start, step = (t[f"{name}{part}"] for part in ("codes", "start", "step"))
        rows = np.empty((len(codes), len(start)))
        for i, planes in enumerate(codes.tolist()):
            for j in range(len(start)):
                code = sum((plane[j // 8] >> (7 - j % 8) & 1) << bit for bit, plane in enumerate(planes))
                rows[i, j] = np.float16(start[j] + step[j] * code)
        return rows
