"""MovieLens-1M: MultiLoRA and its ablations beside Single, Mix and Fine-tune, on four backbones, five seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.claims.line import Line, measured
from benchmarks.claims.movielens import prepare
from benchmarks.claims.multilora_table import Family, Rows, Table, gains, merged, paired, reaches
from benchmarks.claims.multilora_trial import WHOLE
from benchmarks.claims.workplace import Workplace
from training.sources.synthetic import SyntheticWorld, synthetic

BASE: dict[str, Any] = {
    "backbone": {"width": 16, "tower": [256, 128], "embedding_std": 1e-4},
    "pretrain": {"lr": 1e-3, "weight_decay": 1e-5, "batch_rows": 4096, "epochs": 20, "patience": 2, "dropout": 0.2},
    "adapter": {"ranks": [8, 8]},
    "adapters": {"lr": 1e-3, "weight_decay": 1e-3, "batch_rows": 2048, "epochs": 5, "patience": 2, "dropout": 0.5},
    "fuse": {"lr": 3e-4, "weight_decay": 0.0, "batch_rows": 4096, "epochs": 3, "patience": 1, "dropout": 0.5},
}
GRID: tuple[dict[str, Any], ...] = tuple(
    {
        "pretrain": {"lr": 1e-2, "epochs": 30, "average": "tail", "weight_decay": decay},
        "adapters": {"lr": rate, "average": "tail"},
        "fuse": {"average": "tail"},
    }
    for rate in (1e-3, 3e-4)
    for decay in (2e-5, 3e-5)
)
"""Mix is tuned by what its stage has, the adapters by both: each takes the one that its validation likes.

Long steps, whose noise the average of the weights takes away: .008 more than PLAIN gives (docs/decisions/)."""
PLAIN: tuple[dict[str, Any], ...] = tuple(
    {"pretrain": {"dropout": dropout, "weight_decay": decay}, "adapters": {"lr": rate}}
    for dropout in (0.2, 0.4)
    for decay, rate in ((1e-5, 1e-3), (3e-5, 3e-4))
)
"""Without averages: short steps, and the weights as they are after an epoch."""
DOMAINS: dict[str, Any] = {"weight_decay": 1e-5, "batch_rows": 2048, "epochs": 20, "patience": 2, "average": "tail"}
FINETUNE_GRID: tuple[dict[str, Any], ...] = tuple(
    {WHOLE: {**DOMAINS, "lr": rate, "dropout": dropout}} for rate in (3e-3, 3e-4) for dropout in (0.2, 0.5)
)
SINGLE_GRID: tuple[dict[str, Any], ...] = tuple(
    {WHOLE: {**DOMAINS, "lr": rate, "weight_decay": decay, "dropout": 0.2}}
    for rate in (1e-2, 3e-3)
    for decay in (2e-5, 3e-5)
)
PAPER: tuple[dict[str, Any], ...] = tuple(
    {
        "backbone": {"embedding_std": 1.0},
        "pretrain": {"lr": rate, "weight_decay": decay, "batch_rows": 2048, "patience": 5},
        "adapters": {"lr": rate, "weight_decay": decay, "patience": 5, "epochs": 20, "dropout": 0.2},
        "fuse": {"lr": rate, "weight_decay": decay, "patience": 5, "epochs": 20, "dropout": 0.2},
    }
    for rate in (1e-3, 5e-4)
    for decay in (1e-5, 1e-4)
)
"""Step sizes, weight decay, batch and patience that the paper prints; tables start as torch's own embedding does."""
NOT_AVERAGED, OWN = "not averaged", "paper's setting"
"""Begin the names of the rows of two other settings of the MLP."""
KINDS = {"wide_deep": "Wide&Deep", "dcn": "DCN", "deepfm": "DeepFM"}
PUBLISHED = {
    "single": 0.7969,
    "mix": 0.8105,
    "finetune": 0.8077,
    "single_lora": 0.8160,
    "multi_lora": 0.8170,
    "multi_lora-add": 0.7958,
    "multi_lora-avg": 0.8105,
    "paper's setting: mix": 0.8105,
    "wide_deep finetune": 0.8107,
    "wide_deep single_lora": 0.8182,
    "wide_deep multi_lora": 0.8200,
    "dcn finetune": 0.8095,
    "dcn single_lora": 0.8169,
    "dcn multi_lora": 0.8182,
    "deepfm finetune": 0.8146,
    "deepfm single_lora": 0.8214,
    "deepfm multi_lora": 0.8229,
    "paper's setting: multi_lora": 0.8170,
}
"""Pooled test AUC (MultiLoRA, CIKM 2024, tables 3 and 5)."""
AIMS = {"multi_lora": 0.8170, "deepfm multi_lora": 0.8229}
LEAST_GAIN = 0.001
CORE_HOURS = 14.4
"""Of FULL=1, at most; by the record."""
AGAIN = ("multi_lora", "single")
"""Two trainings, side by side where there are two cores; the rows that share the first one are looked at, too."""
QUICK: Mapping[str, Any] = {
    "backbone": {"width": 4, "tower": [16, 8]},
    "adapter": {"ranks": [2, 2]},
    **{stage: {"epochs": 1} for stage in ("pretrain", "adapters", "fuse")},
}


def families() -> tuple[Family, ...]:
    """The MLP with all methods, the other backbones, weights that are not averaged, and the paper's own setting."""
    found = [
        Family("stages", GRID),
        Family("finetune", FINETUNE_GRID, start="mix"),
        Family("single", SINGLE_GRID, start="mix"),
    ]
    chosen = ("mix", "single_lora", "multi_lora")
    for kind in KINDS:
        grid = tuple(merged({"backbone": {"kind": kind}}, config) for config in GRID)
        found += [
            Family("stages", grid, f"{kind} ", chosen),
            Family("finetune", FINETUNE_GRID, f"{kind} ", start=f"{kind} mix"),
        ]
    return (*found, Family("stages", PLAIN, f"{NOT_AVERAGED}: ", chosen), Family("stages", PAPER, f"{OWN}: ", chosen))


def table(name: str = "multilora-movielens") -> Table:
    """The table."""
    return Table(name, BASE, families(), "pooled", AGAIN, CORE_HOURS, PUBLISHED)


def lines(work: Workplace) -> Iterator[Line]:
    """The rows, the aims, then seed 0 again."""
    if work.quick:
        yield from quick_lines(work)
        return
    own, data = table(), prepare(work)
    rows = own.brought(work, data)
    if rows is None:
        yield from own.missing([(f"{name}, pooled test AUC", f">= {bound:.4f}") for name, bound in AIMS.items()])
        yield from own.missing([("multi_lora - mix, pooled test AUC", f">= {LEAST_GAIN:g} with p < 0.05")])
        return
    yield from own.dated()
    yield from own.lines(rows)
    yield from aims(own.name, rows)
    yield from own.again(work, data, rows)


def aims(name: str, rows: Rows) -> Iterator[Line]:
    """What MultiLoRA must reach, and what tuning alone gives."""
    for method, bound in AIMS.items():
        yield reaches(f"{name}: {method}, pooled test AUC", rows[method], bound)
    for prefix in ("", f"{NOT_AVERAGED}: "):
        better, worse = f"{prefix}multi_lora", f"{prefix}mix"
        yield gains(f"{name}: {better} - mix, pooled test AUC", rows[better], rows[worse], LEAST_GAIN)
    for method in ("mix", "multi_lora"):
        for other in (NOT_AVERAGED, OWN):
            mean, half = paired(rows[method], rows[f"{other}: {method}"])
            yield measured(f"{name}: {method} less that of '{other}'", f"{mean:+.4f} ± {half:.4f}")


def quick_lines(work: Workplace) -> Iterator[Line]:
    """One configuration of some families on a small synthetic world."""
    data = small_world(work)
    chosen = families()
    own = Table("multilora-movielens-tried", BASE, (*chosen[:3], chosen[-4], chosen[-3]), "pooled", ("mix",), 0.0)
    rows = own.tried(work, data, {**QUICK})
    yield from own.lines(rows)
    yield gains(f"{own.name}: multi_lora - mix, pooled test AUC", rows["multi_lora"], rows["mix"], LEAST_GAIN)


def small_world(work: Workplace) -> Path:
    """Three planted domains, for tries."""
    folder = work.folder / "table-data"
    if not (work.reuse and (folder / "spec.json").exists()):
        synthetic(SyntheticWorld(rows=20_000, users=200, items=80, domains=3, segments=2)).write(folder)
    return folder
