"""MovieLens-1M: training time, counts, the backbone's AUC, and MultiLoRA against the backbone."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims.line import Line, at_least, at_most, exactly, measured
from benchmarks.claims.workplace import Workplace
from benchmarks.oracle_files import read_safetensors

SEEDS = (0, 1, 2)


def prepare(work: Workplace) -> Path:
    """The prepared MovieLens folder."""
    folder = work.folder / "movielens-data"
    if not (work.reuse and (folder / "spec.json").exists()):
        work.espalier("data", "prepare", "movielens-1m", "--source", str(work.data / "ml-1m"), "--out", str(folder))
    return folder


def train(work: Workplace, config: str, seed: int, prepared: Path, name: str, **changes: Any) -> tuple[Path, float]:
    """A finished `train all`: its folder and the seconds it took (as recorded, when it is reused)."""
    out, clock = work.folder / f"{name}-{seed}", work.folder / f"{name}-{seed}.seconds"
    if work.reuse and (out / "report.json").exists() and clock.exists():
        return out, float(clock.read_text())
    path = work.config(config, **changes)
    seconds = work.espalier(
        "train", "all", "--config", str(path), "--data", str(prepared), "--seed", str(seed), "--out", str(out)
    )
    clock.write_text(str(seconds))
    return out, seconds


def counts(run: Path) -> dict[str, int]:
    """Parameter counts, summed from the exported files alone."""
    weights, _ = read_safetensors(run / "bundle" / "weights.safetensors")
    sizes = {name: int(np.prod(t.shape)) for name, t in weights.items() if not name.endswith((".mean", ".var"))}
    rows = sum(name.startswith("embedding.") for name in sizes)
    width = next(t.shape[1] for name, t in weights.items() if name.startswith("embedding."))
    everything = sum(sizes.values())
    tower = sum(size for name, size in sizes.items() if not name.startswith("embedding."))
    adapter, _ = read_safetensors(next(iter(sorted((run / "adapters").glob("gender*.safetensors")))))
    kinds = (".down", ".up", ".scale", ".shift")
    lora = sum(int(np.prod(t.shape)) for n, t in adapter.items() if n.startswith("tower.") and n.endswith(kinds))
    return {
        "all parameters, out-of-vocabulary rows left out": everything - rows * width,
        "all parameters": everything,
        "tower, norms and output": tower,
        "one adapter [8,8]: down, up, scale, shift": lora,
    }


def lines(work: Workplace) -> Iterator[Line]:
    """Three seeds of `espalier train all`."""
    prepared = prepare(work)
    runs = [train(work, "movielens-1m", seed, prepared, "movielens") for seed in SEEDS]
    for seed, (_, seconds) in zip(SEEDS, runs, strict=True):
        yield at_most(f"MovieLens-1M `train all`, seed {seed}", seconds / 60, 15, " min", 1)
    expected = (274_641, 274_753, 62_977, 6_792)
    for (name, count), wanted in zip(counts(runs[0][0]).items(), expected, strict=True):
        yield exactly(f"MovieLens count, {name}", count, wanted)
    reports = [json.loads((run / "report.json").read_text()) for run, _ in runs]
    yield from accuracy(reports)


def accuracy(reports: list[dict[str, Any]]) -> Iterator[Line]:
    """AUC lines from the runs' reports."""
    methods = [report["evaluation"]["methods"] for report in reports]
    pooled = {name: [m[name]["pooled"]["auc"] for m in methods] for name in methods[0]}
    for name, values in pooled.items():
        figure = ", ".join(f"{v:.4f}" for v in values) + f"; mean {statistics.mean(values):.4f}"
        yield measured(f"MovieLens pooled test AUC, {name}, 3 seeds", figure)
    yield at_least(
        "MovieLens pooled test AUC of the backbone, mean of 3 seeds", statistics.mean(pooled["backbone"]), 0.815
    )
    for seed, found in zip(SEEDS, methods, strict=True):
        multi = found["multi_lora"]
        scopes = {"pooled": multi["pooled"], **multi["domains"]}
        for scope, figures in scopes.items():
            difference = figures["difference"]
            claim = f"MovieLens seed {seed}, {scope}: MultiLoRA - backbone, upper end of the paired 95% interval"
            text = f"{difference['value']:+.5f} [{difference['low']:+.5f}, {difference['high']:+.5f}]"
            holds = difference["high"] >= -0.0005
            yield Line(claim, text, "upper end >= -0.0005", "holds" if holds else "falls short")
