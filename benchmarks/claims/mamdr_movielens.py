"""MovieLens-1M: the multi-domain networks beside Mix and MultiLoRA, equally tuned, five seeds (MultiLoRA's RQ1)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.claims import multilora_trial
from benchmarks.claims.line import Line, not_measurable
from benchmarks.claims.mamdr_contest import SEEDS, Contest, Row, Rows, validation
from benchmarks.claims.mamdr_grids import RATES, framework, network
from benchmarks.claims.mamdr_results import write_results
from benchmarks.claims.mamdr_trial import Found
from benchmarks.claims.movielens import prepare
from benchmarks.claims.multilora_trial import Training
from benchmarks.claims.workplace import ROOT, Workplace

BASE: dict[str, Any] = {
    "network": {"width": 16, "tower": [256, 128], "dropout": 0.2, "norm": True, "embedding_std": 1e-4},
    "batch_rows": 4096,
    "epochs": 20,
    "patience": 2,
}
"""Network, batch, epochs and patience of MultiLoRA's first stage, as its packaged configuration has them."""
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
AGAIN = ("multi_lora", "mix", "shared_bottom", "plate", "hamur", "star", "mmoe")
AGAIN_MINUTES = 14.0
CORE_HOURS = 2.4
"""A guess: six networks of one to four passes' cost, six trainings each, and six of MultiLoRA; none was timed."""
_PACKAGED = ROOT / "training" / "configs" / "movielens-1m.yaml"
_STAGES = ("backbone", "pretrain", "adapter", "adapters", "fusion", "fuse", "select")


class MultiLora:
    """MultiLoRA's row: the packaged configuration with each of the step sizes that everybody has, tuned like the rest.

    Beside it stands the backbone that it comes from, for what is owed to the adapters and what to that training. Its
    stage 1 keeps the weight decay of its configuration, which the others do not have; validation is its pooled AUC.
    """

    names: Mapping[str, str] = {"multi_lora": "multi_lora", "backbone of multi_lora": "mix"}
    trainings = len(RATES) + len(SEEDS) - 1

    def rows(self, data: Path, seeds: Sequence[int], kept: Path) -> dict[str, Row]:
        """Tune on the first seed, then run the others with what the fused model's validation preferred."""
        tuning = [Training.of(data, "stages", config, seeds[0]) for config in grid()]
        found = multilora_trial.run_all(tuning, kept)
        best = max(tuning, key=lambda training: validation(found[training]["multi_lora"]))
        more = [Training(best.data, best.kind, best.config, seed) for seed in seeds[1:]]
        found |= multilora_trial.run_all(more, kept)
        each = [found[training] for training in (best, *more)]
        return {
            name: Row(json.loads(best.config), tuple(told(one[inner]) for one in each))
            for name, inner in self.names.items()
        }

    def again(self, data: Path, rows: Rows, kept: Path) -> dict[str, Found]:
        """Run the first seed of its rows once more, as they were tuned."""
        trainings = {name: Training.of(data, "stages", row.config, SEEDS[0]) for name, row in rows.items()}
        found = multilora_trial.run_all(list(dict.fromkeys(trainings.values())), kept)
        return {name: told(found[training][self.names[name]]) for name, training in trainings.items()}


def grid() -> list[dict[str, Any]]:
    """The packaged configuration with each step size in its first stage, which the others' step size is compared to."""
    packaged = yaml.safe_load(_PACKAGED.read_text())
    keys = {name: packaged[name] for name in _STAGES if name in packaged}
    return [{**keys, "pretrain": {**keys["pretrain"], "lr": rate}} for rate in RATES]


def told(found: Mapping[str, Any]) -> Found:
    """What a training of the stages says of one method, as the table has it: its mean over domains is the figure."""
    return {"test": found["macro"], **{key: found[key] for key in ("domains", "pooled", "seconds", "code")}}


def contest(quick: bool = False) -> Contest:
    """The table."""
    methods = [framework("mix", VALUES), *(network(name, VALUES, **settings) for name, settings in NETWORKS.items())]
    if quick:
        return Contest("mamdr-movielens", BASE, methods[:2])
    aims = [("multi_lora", name) for name in ("mix", *NETWORKS)]
    return Contest(
        "mamdr-movielens",
        BASE,
        methods,
        aims,
        again=AGAIN,
        again_minutes=AGAIN_MINUTES,
        core_hours=CORE_HOURS,
        beside=MultiLora(),
    )


def lines(work: Workplace) -> Iterator[Line]:
    """The table, and MultiLoRA against each of the others."""
    if not (work.data / "ml-1m").exists():
        yield not_measurable("MovieLens-1M: the table of networks beside MultiLoRA", "as recorded", "no data at hand")
        return
    yield from contest(work.quick).lines(work, prepare(work))
    if not work.quick:
        write_results()
