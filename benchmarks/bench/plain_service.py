"""The plain backbone in ONNX Runtime for other servers: ids in, probabilities out, requests in batches.

It finds ids and features as Espalier does, so that what differs is the server around it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters_store.backbone import read_bundle
from benchmarks.bench.graphs import plain_graph
from benchmarks.bench.peers_onnx import session
from features.lookup import EmbeddingLookup
from features.rows import EncodedRows
from service.tables import FeatureTables

BUNDLE = "BENCH_BUNDLE"  # a folder, in the environment of the server's processes
MAX_BATCH = 16
WAIT_MS = 1


class PlainService:
    """Scores requests as they come in the body of `POST /score`.

    Args:
        bundle: folder; that of the environment by default.
    """

    def __init__(self, bundle: Path | None = None) -> None:
        backbone = read_bundle(bundle or Path(os.environ[BUNDLE]))
        self._tables = FeatureTables(backbone)
        self._lookup = EmbeddingLookup(backbone.manifest.fields, backbone.weights)
        self._session: Any = session(plain_graph(backbone), 1)

    def score(self, questions: Sequence[dict[str, Any]]) -> list[list[float]]:
        """Probabilities of each request, all in one run."""
        parts = [self._tables.encode(q["user_id"], q["item_ids"], q["domain_id"], {}).rows for q in questions]
        (logits,) = self._session.run(["logit"], self._lookup.vectors(EncodedRows.concatenate(parts)))
        found = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
        return [part.tolist() for part in np.split(found, np.cumsum([rows.n for rows in parts])[:-1])]
