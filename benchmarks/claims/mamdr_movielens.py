"""MovieLens-1M: the multi-domain networks beside Mix and MultiLoRA, equally tuned, five seeds (MultiLoRA's RQ1)."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks.claims.line import Line
from benchmarks.claims.mamdr_contest import Contest, aim
from benchmarks.claims.mamdr_grids import framework, network
from benchmarks.claims.mamdr_trial import Found
from benchmarks.claims.movielens import prepare, train
from benchmarks.claims.workplace import Workplace

BASE: dict[str, Any] = {
    "network": {"width": 16, "tower": [256, 128], "dropout": 0.2, "norm": True, "embedding_std": 1e-4},
    "batch_rows": 4096,
    "epochs": 12,
    "patience": 2,
}
VALUES = 1
"""Of `inner.reset`, with both step sizes."""
USER_FIELDS = ["user_id", "gender", "occupation", "zip", "age"]
NETWORKS: dict[str, dict[str, Any]] = {
    "shared_bottom": {},
    "mmoe": {"experts": 4},
    "star": {},
    "hamur": {},
    "plate": {"user_fields": USER_FIELDS},
}


def lines(work: Workplace) -> Iterator[Line]:
    """The table. MultiLoRA is `train all` with the packaged configuration, which `make claims-main` measures."""
    data = prepare(work)

    def multi_lora(seed: int) -> dict[str, Found]:
        run, seconds = train(work, "movielens-1m", seed, data, "movielens")
        method = json.loads((run / "report.json").read_text())["evaluation"]["methods"]["multi_lora"]
        domains = {name: figures["auc"] for name, figures in method["domains"].items()}
        known = [value for value in domains.values() if value is not None]
        found = {"test": statistics.mean(known), "domains": domains, "pooled": method["pooled"]["auc"]}
        return {"multi_lora": {**found, "seconds": seconds}}

    methods = [framework("mix", VALUES), *(network(name, VALUES, **settings) for name, settings in NETWORKS.items())]
    if work.quick:
        yield from Contest("mamdr-movielens", BASE, methods[:2]).lines(work, data)
        return
    contest = Contest("mamdr-movielens", BASE, methods, beside=multi_lora)
    yield from contest.lines(work, data)
    rows = contest.rows()
    for name in ("mix", *NETWORKS):
        yield aim(contest.name, rows, "multi_lora", name)
