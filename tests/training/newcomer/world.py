"""A random backbone without graphs, made in milliseconds, and rows of a domain that it never saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from adapters_store.backbone import COUNTS, read_bundle, write_bundle
from adapters_store.backbone import Backbone as Bundle
from adapters_store.feature_tables import SIDES, bundled_table
from adapters_store.manifest import BackboneManifest
from adapters_store.tensors import write_tensors
from features.vocabulary import Vocabulary
from tests.factory import Sizes, make_divisions, make_fields, make_tables, make_vocabulary, random_backbone
from training.config import AdapterConfig
from training.export import form_of
from training.newcomer.config import NewcomerConfig, NewcomerSchedule
from training.newcomer.ground import Ground
from training.newcomer.rows import NewRows

DOMAIN = "vegan"
UNSEEN_USERS = ("36", "37", "38", "39", "40")
"""In the feature table of `Sizes()`, not in the vocabulary."""
NEW_USERS: dict[str, list[Any]] = {"id": ["u-new", "90001", "1"], "segment": ["b", "a", "c"]}
NEW_ITEMS: dict[str, list[Any]] = {"id": ["brand new"], "tags": [["tag 1", "tag 5"]], "price": [4.0]}


def make_bundle(
    folder: Path, sizes: Sizes | None = None, seed: int = 0, counts: dict[str, NDArray[Any]] | None = None
) -> Bundle:
    """A bundle whose graph is empty: training needs none."""
    rng, sizes = np.random.default_rng(seed), sizes or Sizes()
    fields, vocabulary = make_fields(sizes), make_vocabulary(sizes)
    users, items = make_tables(rng, sizes, vocabulary)
    network = random_backbone(rng, sizes, fields)
    tensors = {
        "weights": {name: tensor.numpy() for name, tensor in network.weights().items()},
        "vocabulary": vocabulary.to_tensors(),
        "users": users.tensors(),
        "items": items.tensors(),
    } | ({} if counts is None else {COUNTS: counts})
    files = {f"{name}.safetensors": write_tensors(found, {"content": name}) for name, found in tensors.items()}
    manifest = BackboneManifest(**form_of(network.shape), fields=fields, divisions=make_divisions(sizes))
    write_bundle(folder, manifest, {**files, "scoring.onnx": b""})
    return read_bundle(folder)


def ground_of(bundle: Bundle) -> Ground:
    """What a new domain stands on where a store has the bundle alone."""
    vocabulary = Vocabulary.from_tensors(bundle.tensors("vocabulary"), bundle.manifest.fields)
    return Ground(DOMAIN, bundle, vocabulary, {side: bundled_table(bundle, side) for side in SIDES})


def frame_of(n: int = 300, seed: int = 0, users: tuple[str, ...] | None = None) -> pl.DataFrame:
    """Rows of users and items of the tables; each user's own taste decides most labels."""
    rng = np.random.default_rng(seed)
    known = users or tuple(map(str, range(1, 41)))
    items = [f"item-{i}" for i in range(1, 121)]
    user, item = rng.integers(0, len(known), n), rng.integers(0, len(items), n)
    taste = np.where(np.arange(len(known)) % 2 == 0, 2.0, -2.0)
    return pl.DataFrame(
        {
            "user_id": [known[i] for i in user],
            "item_id": [items[i] for i in item],
            "label": (taste[user] + rng.normal(0, 1, n) > 0).astype(int),
            "hour": rng.integers(0, 30, n),
            "age_days": [None if i % 7 == 0 else float(v) for i, v in enumerate(rng.normal(30, 12, n))],
        }
    )


def rows_of(frame: pl.DataFrame) -> NewRows:
    """The same as checked rows."""
    return NewRows(frame.drop("label"), frame["label"].to_numpy().astype(np.float32))


def config_of(sizes: Sizes | None = None, **changes: Any) -> NewcomerConfig:
    """A training of a fraction of a second."""
    sizes = sizes or Sizes()
    settings: dict[str, Any] = {
        "threads": 1,
        "adapter": AdapterConfig(ranks=sizes.ranks, interaction_rank=sizes.interaction_rank),
        "schedule": NewcomerSchedule(lr=1e-2, batch_rows=64, steps=10_000, epochs=6, dropout=0.1),
        "calibration": {"min_rows": 20, "min_of_class": 5},
    }
    return NewcomerConfig.model_validate(settings | changes)
