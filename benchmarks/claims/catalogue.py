"""A backbone over a large catalogue: four fields an item, one a user, random weights; and its parquet files."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import torch
from numpy.typing import NDArray

from adapters_store.backbone import write_bundle
from adapters_store.manifest import BackboneManifest
from adapters_store.tensors import write_tensors
from features.fields import Division, Field
from features.index import RawIndex
from features.lookup import EmbeddingLookup
from features.rows import EncodedRows
from features.tables import FeatureTable
from features.vocabulary import Vocabulary
from network.backbone import Backbone
from network.inputs import FieldShape, NetworkShape
from network.onnx_export import export_scoring

SIZES = {"segment": 20, "brand": 5000, "category": 300, "colour": 40}
ITEM_FIELDS = ("brand", "category", "colour", "price")
USERS = 10


def field(name: str) -> Field:
    """A field of the catalogue by its name."""
    side: Any = "item" if name in ITEM_FIELDS else "user"
    if name == "price":
        return Field(name=name, kind="dense", of=side)
    return Field(name=name, kind="sparse", of=side, vocabulary_size=SIZES[name], width=16)


FIELDS = [field(name) for name in ("segment", *ITEM_FIELDS)]


def write_catalogue(folder: Path) -> str:
    """A bundle with a few users and one item; the catalogue itself is published beside it. Its revision."""
    torch.manual_seed(0)
    shapes = tuple(FieldShape(f.name, f.kind, f.vocabulary_size) for f in FIELDS)
    network = Backbone(NetworkShape(shapes, embedding_std=1.0)).freeze()
    words = Vocabulary({name: RawIndex.from_values(range(1, size)) for name, size in SIZES.items()})
    of_user = [f for f in FIELDS if f.of == "user"]
    of_item = [f for f in FIELDS if f.of == "item"]
    users = FeatureTable(ids("user", 0, USERS), of_user, EncodedRows(USERS, {"segment": np.ones(USERS, np.int32)}), {})
    item: dict[str, NDArray[Any]] = {f.name: np.ones(1, np.float32 if f.kind == "dense" else np.int32) for f in of_item}
    items = FeatureTable(ids("item", 0, 1), of_item, EncodedRows(1, item), {})
    weights = {name: value.numpy() for name, value in network.weights().items()}
    tensors = {"weights": weights, "vocabulary": words.to_tensors(), "users": users.tensors(), "items": items.tensors()}
    tensors["golden"] = golden(network, weights)
    files = {f"{name}.safetensors": write_tensors(found, {"content": name}) for name, found in tensors.items()}
    theme = Division.model_validate({"name": "theme", "natural": True, "of": "context", "domains": ["all"]})
    manifest = BackboneManifest(fields=FIELDS, tower=list(network.shape.tower), divisions=[theme])
    return write_bundle(folder, manifest, files | {"scoring.onnx": export_scoring(network)})


@torch.no_grad()
def golden(network: Backbone, weights: dict[str, NDArray[Any]], rows: int = 64) -> dict[str, NDArray[Any]]:
    """Rows that a reader's engine must reproduce, and their logits in float64."""
    rng = np.random.default_rng(0)
    drawn: dict[str, NDArray[Any]] = {f.name: rng.random(rows).astype(np.float32) for f in FIELDS if f.kind == "dense"}
    drawn |= {f: rng.integers(0, size, rows).astype(np.int32) for f, size in SIZES.items()}
    encoded = EncodedRows(rows, {f.name: drawn[f.name] for f in FIELDS})
    vectors = EmbeddingLookup(FIELDS, weights).vectors(encoded)
    x = torch.from_numpy(np.concatenate(list(vectors.values()), axis=1)).double()
    return encoded.to_tensors("inputs") | {"logits": copy.deepcopy(network).double().score(x).numpy()}


def ids(kind: str, start: int, count: int) -> RawIndex:
    """An index of a few ids."""
    return RawIndex.from_values([name(kind, number) for number in range(start, start + count)])


def name(kind: str, number: int) -> str:
    """The id of a user or item."""
    return f"{kind}-{number:08d}"


@dataclass(frozen=True)
class Slice:
    """Some items of the catalogue.

    Args:
        start: number of the first.
        count: how many.
        seed: of their values.
    """

    start: int
    count: int
    seed: int

    def write(self, path: Path) -> Path:
        """As parquet, in pieces; the path."""
        rng = np.random.default_rng(self.seed)
        with parquet.ParquetWriter(path, self._schema()) as writer:
            for first in range(self.start, self.start + self.count, 1 << 18):
                n = min(1 << 18, self.start + self.count - first)
                columns: dict[str, Any] = {"id": [name("item", first + i) for i in range(n)]}
                columns |= {f: rng.integers(1, SIZES[f], n) for f in ITEM_FIELDS if f in SIZES}
                columns["price"] = rng.random(n)
                writer.write_table(arrow.table(columns, schema=self._schema()))
        return path

    @staticmethod
    def _schema() -> Any:
        whole = [(f, arrow.int64()) for f in ITEM_FIELDS if f in SIZES]
        return arrow.schema([("id", arrow.string()), *whole, ("price", arrow.float64())])
