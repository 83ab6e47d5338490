"""epinions-rating: category by user activity, against a tuned Mix and Single; and what the gate lets through."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.claims.line import Line, exactly, measured, not_measurable
from benchmarks.claims.multilora_movielens import QUICK, small_world
from benchmarks.claims.multilora_table import Family, Rows, Table, paired
from benchmarks.claims.multilora_trial import WHOLE
from benchmarks.claims.workplace import Workplace

BASE: dict[str, Any] = {
    "backbone": {"width": 16, "tower": [64, 32], "embedding_std": 5e-3},
    "pretrain": {"lr": 1e-3, "weight_decay": 1e-5, "batch_rows": 1024, "epochs": 20, "patience": 2, "dropout": 0.0},
    "adapter": {"ranks": [8, 8]},
    "adapters": {"lr": 1e-3, "weight_decay": 1e-3, "batch_rows": 2048, "epochs": 8, "patience": 2, "dropout": 0.2},
    "fuse": {"lr": 3e-4, "weight_decay": 0.0, "batch_rows": 4096, "epochs": 3, "patience": 1, "dropout": 0.2},
    "packed": {"memory_mib": 512, "domains": 64},
}
GRID: tuple[dict[str, Any], ...] = tuple(
    {
        "pretrain": {"lr": 3e-3, "average": "tail", "weight_decay": decay},
        "adapters": {"lr": rate, "average": "tail"},
        "fuse": {"average": "tail"},
    }
    for rate in (1e-3, 3e-4)
    for decay in (1e-5, 3e-5)
)
"""An item has three rows: training fits them within an epoch, and dropout, or tables that start near zero, make a
backbone that a user and item bias beats (docs/decisions/2026-11-23-what-the-multilora-tables-can-give.md)."""
DOMAINS: dict[str, Any] = {
    "weight_decay": 1e-5,
    "batch_rows": 1024,
    "min_batches": 4,
    "epochs": 15,
    "patience": 2,
    "average": "tail",
}
WHOLE_GRID: tuple[dict[str, Any], ...] = tuple(
    {WHOLE: {**DOMAINS, "lr": rate, "dropout": dropout}} for rate in (1e-3, 3e-4) for dropout in (0.0, 0.2)
)
FAMILIES = (Family("stages", GRID), Family("single", WHOLE_GRID, start="mix"))
CORE_HOURS = 1.3
"""Of FULL=1, at most; by the record."""
GATED = "domains and seeds that passed the gate and are worse than the Mix they adapt beyond their paired 95% interval"


def lines(work: Workplace) -> Iterator[Line]:
    """The rows, each domain, the gate, then seed 0 again."""
    if work.quick:
        own = Table("multilora-epinions-tried", BASE, FAMILIES, "macro", ("mix",), 0.0)
        rows = own.tried(work, small_world(work), QUICK)
        yield from own.lines(rows)
        yield from judged(own.name, rows)
        return
    own = Table("multilora-epinions", BASE, FAMILIES, "macro", ("mix", "multi_lora"), CORE_HOURS)
    data = prepare(work)
    if data is None:
        yield not_measurable(f"{own.name}: all lines", "as below", "the data is not at hand")
        return
    rows_found = own.brought(work, data)
    if rows_found is None:
        yield from own.missing([(GATED, "= 0"), ("multi_lora, mix and single: macro test AUC, 5 seeds", "recorded")])
        return
    yield from own.dated()
    yield from own.lines(rows_found)
    yield from judged(own.name, rows_found)
    yield from own.again(work, data, rows_found)


def prepare(work: Workplace) -> Path | None:
    """The prepared set; None where its source is not at hand."""
    folder, source = work.folder / "epinions-rating", work.data / "epinions"
    if not source.exists():
        return None
    if not (work.reuse and (folder / "spec.json").exists()):
        work.espalier("data", "prepare", "epinions-rating", "--source", str(source), "--out", str(folder))
    return folder


def judged(name: str, rows: Rows) -> Iterator[Line]:
    """MultiLoRA against the others, per domain and in the mean, and what the gate promises."""
    for other in ("mix", "single"):
        mean, half = paired(rows["multi_lora"], rows[other])
        yield measured(f"{name}: multi_lora - {other}, macro test AUC, paired 95%", f"{mean:+.4f} ± {half:.4f}")
    for domain in rows["mix"].seeds[0]["domains"]:
        means = {
            one: _mean([seed["domains"][domain] for seed in rows[one].seeds]) for one in ("multi_lora", "mix", "single")
        }
        passed = sum(seed["gated"][domain]["passed"] for seed in rows["multi_lora"].seeds)
        figure = ", ".join(f"{one} {value}" for one, value in means.items())
        yield measured(f"{name}: {domain}, test AUC", f"{figure}; the gate lets {passed} of its seeds pass")
    ends = [one for seed in rows["multi_lora"].seeds for one in seed["gated"].values() if one["passed"]]
    if not ends:
        yield Line(f"{name}: {GATED}", "none of any seed passed, so nothing is shown", "= 0", "falls short")
        return
    worse = sum(one["high"] is not None and one["high"] < 0 for one in ends)
    yield exactly(f"{name}: of {len(ends)}, {GATED}", worse, 0)


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.mean(known):.4f}" if known else "undefined"
