"""Calibration fitted on one half of validation: the expected calibration error of the test rows, before and after."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.claims.line import Line, at_least, at_most, measured
from benchmarks.claims.movielens import train
from benchmarks.claims.workplace import Workplace

SEEDS = range(3)
ROWS, QUICK_ROWS = 150_000, 20_000
_DIGITS = 6


def lines(work: Workplace) -> Iterator[Line]:
    """`train all` on planted domains, with the packaged configuration."""
    quick = {"pretrain": {"epochs": 1}, "adapters": {"epochs": 1}, "fuse": {"epochs": 1}} if work.quick else {}
    for seed in SEEDS[:1] if work.quick else SEEDS:
        data = work.folder / f"calibration-data-{seed}"
        if not (work.reuse and (data / "spec.json").exists()):
            size = ["--rows", str(QUICK_ROWS if work.quick else ROWS), "--domains", "6"]
            work.espalier("data", "prepare", "synthetic", "--seed", str(seed), *size, "--out", str(data))
        run, _ = train(work, "synthetic", seed, data, "calibration", **quick)
        found = json.loads((run / "report.json").read_text())["training"]["calibration"]
        yield from held(f"synthetic seed {seed}", found)


def held(world: str, found: Mapping[str, Any]) -> Iterator[Line]:
    """What a report says of calibration, against its bounds; the errors are compared as they are printed."""
    before, after = found["pooled"]["before"], found["pooled"]["after"]
    claim = f"{world}, pooled test ECE after calibration; bound: before"
    yield at_most(claim, round(after["ece"], _DIGITS), round(before["ece"], _DIGITS), digits=_DIGITS)
    fitted = sum("reason" not in one["fitted"] or not one["fitted"]["reason"] for one in found["domains"].values())
    yield at_least(f"{world}: domains that a calibration was fitted for", fitted, 1, digits=0)
    figure = f"COPC {before['copc']:.4f} to {after['copc']:.4f}, LogLoss {before['log_loss']:.5f} to "
    figure += f"{after['log_loss']:.5f}; fitted in {fitted} of {len(found['domains'])} domains"
    yield measured(f"{world}: the same rows", figure)
