"""The requests that served benchmarks ask: 100 items of one user, domains in turn."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from benchmarks.bench.load import JSON
from benchmarks.bench.served import ITEMS, USERS, domain

COUNT = 100


def questions(domains: int, count: int, *, strict: bool = False, seed: int = 0) -> list[dict[str, Any]]:
    """So many requests; request i is of domain i modulo `domains`; a strict one is answered by its adapter or not."""
    rng = np.random.default_rng(seed)
    return [
        {
            "user_id": int(rng.integers(1, USERS + 1)),
            "domain_id": domain(i % domains),
            "item_ids": (rng.choice(ITEMS, COUNT, replace=False) + 1).tolist(),
            "strict": strict,
        }
        for i in range(count)
    ]


def encoded(question: dict[str, Any], kind: str = JSON) -> bytes:
    """A request's body."""
    return msgspec.json.encode(question) if kind == JSON else msgspec.msgpack.encode(question)
