"""MovieLens-1M with a domain left out of pre-training, three ways: what LoRA and overlay win back, and what it costs.

The long table is recorded by FULL=1, which keeps what each way and seed gave; otherwise seed 0 of one way is run again.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from adapters_store.canonical import canonical_json, digest
from benchmarks.claims.line import Line, at_least, at_most, between, measured
from benchmarks.claims.mamdr_contest import Row
from benchmarks.claims.movielens import prepare
from benchmarks.claims.multilora_leaving import Grounds, left_out
from benchmarks.claims.multilora_movielens import BASE, QUICK, small_world
from benchmarks.claims.multilora_scoring import overlay_speed
from benchmarks.claims.multilora_table import NOT_RECORDED, full, merged
from benchmarks.claims.trainings import RECORDS, dated, fresh, origin, sittings, write_record
from benchmarks.claims.workplace import Workplace
from training.prepared import PreparedDataset
from training.stages import folder_digest
from training.threads import use_threads
from training.trials.code import code_commit
from training.trials.kept import ANY_COMMIT, Found, KeptResults, TrialKey

RECORD = RECORDS / "multilora-leftout.json"
SEEDS = (0, 1, 2)
WAYS = {
    "gender F": pl.col("gender") == "F",
    "age {1,18}": pl.col("domain_id") == "age-1-18",
    "genre Drama": pl.col("genre") == "Drama",
}
AGAIN = "age {1,18}"
METHODS = ("zero-shot", "lora", "overlay", "lora + overlay", "full fine-tune")
BOTH, FULL_TUNE = METHODS[-2:]
RECOVERED, BYTES, TIME, SPEED = 0.92, 0.05, 1 / 3, 0.90
CORE_HOURS = 0.3
"""Of FULL=1, as the record took."""
Results = Mapping[str, Sequence[Found]]


def lines(work: Workplace) -> Iterator[Line]:
    """The table, its bounds, then seed 0 of one way again."""
    use_threads(1)
    if work.quick:
        way = {"theme-02": pl.col("domain_id") == "theme-02"}
        data = PreparedDataset.load(small_world(work))
        config = merged(BASE, QUICK)
        yield from table({name: [one(data, rows, config, 0, fresh(work, "tried"))] for name, rows in way.items()})
        return
    if full():
        count = len(WAYS) * len(SEEDS)
        print(f"# leftout: {count} pre-trainings with five methods each; about {CORE_HOURS:.1f} core hours")
        with sittings("leftout") as kept:
            write(everything(work, kept))
    if not RECORD.exists():
        yield from missing()
        return
    record = json.loads(RECORD.read_text())
    found: Results = record["ways"]
    yield measured("left out: the table was recorded", dated(record))
    yield from table(found)
    if not full():
        yield from again(work, found)


def missing() -> Iterator[Line]:
    """A line for each claim that nothing is known of without a record."""
    for name in WAYS:
        for claim, bound in (
            (f"{BOTH}, share of the way from zero-shot to {FULL_TUNE}", f">= {RECOVERED:g}"),
            ("bytes of the artifact, of a full model's fp32 weights", f"<= {BYTES:g}"),
            (f"time of training, of the {FULL_TUNE}'s", f"<= {TIME:.4f}"),
            ("rows/s of the adapter, over those of the same without its overlay", f">= {SPEED:g}"),
        ):
            yield Line(f"{name} left out: {claim}", NOT_RECORDED, bound, "falls short")


def everything(work: Workplace, folder: Path) -> Results:
    """All ways and seeds; results that are kept in the folder are taken."""
    prepared = prepare(work)
    data = PreparedDataset.load(prepared)
    kept = KeptResults(folder)
    settings = digest(canonical_json({"settings": BASE, "data": folder_digest(prepared)}))
    found: dict[str, list[Found]] = {name: [] for name in WAYS}
    for i, (name, rows) in enumerate(WAYS.items()):
        for seed in SEEDS:
            key = TrialKey(name, seed, settings, ANY_COMMIT)
            result = kept.get(key)
            if result is None:
                result = one(data, rows, BASE, seed, fresh(work, f"leftout-{i}-{seed}"))
                kept.put(key, result)
            found[name].append(result)
            print(f"# {name}, seed {seed}: {result}", flush=True)
    return found


def one(data: PreparedDataset, rows: pl.Expr, config: Mapping[str, Any], seed: int, folder: Path) -> Found:
    """Leave the rows out, and bring them back by each method.

    Returns:
        Method to test AUC, and what LoRA + overlay costs: bytes, full_bytes, bundle_bytes, seconds,
        full_seconds, speed; falling and falling_seconds, of a full fine-tune by a falling step; and code, that
        trained them.
    """
    use_threads(1)  # a process's first session of ONNX Runtime takes denormal numbers up again
    code = code_commit()
    grounds: Grounds = left_out(data, rows, config, seed, folder)
    own = {"lora": grounds.added(True, "none"), "overlay": grounds.added(False, "unseen")}
    both = grounds.added(True, "unseen")
    whole = grounds.whole()
    falling = grounds.whole(falling=True)
    content = grounds.artifact()
    return {
        "zero-shot": grounds.auc_of_backbone(),
        **{name: each.auc for name, each in own.items()},
        BOTH: both.auc,
        FULL_TUNE: whole.auc,
        "bytes": len(content),
        "full_bytes": whole.weight_bytes,
        "bundle_bytes": grounds.bundle_bytes,
        "seconds": both.seconds,
        "full_seconds": whole.seconds,
        "falling": falling.auc,
        "falling_seconds": falling.seconds,
        "speed": overlay_speed(grounds.bundle, content, grounds.requests()),
        "code": code,
    }


def table(found: Results) -> Iterator[Line]:
    """Each way's figures against the bounds, means over its seeds; of times the median, for a busy machine's sake."""
    for name, seeds in found.items():
        figure = ", ".join(f"{method} {_mean(seeds, method):.4f}" for method in METHODS)
        yield measured(f"{name} left out: test AUC, {len(seeds)} seeds", figure)
        claim = f"{name} left out: {BOTH}, share of the way from zero-shot to {FULL_TUNE}"
        yield at_least(claim, recovered(seeds), RECOVERED)
        size = statistics.mean(s["bytes"] / s["full_bytes"] for s in seeds)
        claim = f"{name} left out: bytes of the artifact ({_mean(seeds, 'bytes'):,.0f}), of a full model's fp32 weights"
        yield at_most(claim, size, BYTES, digits=4)
        whole = statistics.mean(s["bytes"] / s["bundle_bytes"] for s in seeds)
        yield measured(
            f"{name} left out: of a full model as it is published, with vocabulary and tables", f"{whole:.4f}"
        )
        spent = statistics.median(s["seconds"] / s["full_seconds"] for s in seeds)
        own = statistics.median(s["seconds"] for s in seeds)
        claim = f"{name} left out: time of training ({own:.1f} s), of the {FULL_TUNE}'s"
        yield at_most(claim, spent, round(TIME, 4), digits=4)
        spent = statistics.median(s["seconds"] / s["falling_seconds"] for s in seeds)
        yield measured(
            f"{name} left out: the same where the {FULL_TUNE} takes three passes of a falling step, too",
            f"{spent:.4f}, of a test AUC of {_mean(seeds, 'falling'):.4f}",
        )
        claim = f"{name} left out: rows/s of the adapter, over those of the same without its overlay"
        yield at_least(claim, _mean(seeds, "speed"), SPEED)


def recovered(seeds: Sequence[Found]) -> float:
    """How far LoRA + overlay goes of the way that the full fine-tune goes, by the means over seeds.

    NaN, which no bound holds for, where the full fine-tune gains nothing: then there is no way to go.
    """
    zero, both, whole = (_mean(seeds, method) for method in ("zero-shot", BOTH, FULL_TUNE))
    return (both - zero) / (whole - zero) if whole > zero else math.nan


def again(work: Workplace, found: Results) -> Iterator[Line]:
    """Seed 0 of one way once more."""
    data = PreparedDataset.load(prepare(work))
    began = time.monotonic()
    result = one(data, WAYS[AGAIN], BASE, SEEDS[0], fresh(work, "leftout-again"))
    for method in ("zero-shot", BOTH):
        low, high = Row({}, tuple({"test": seed[method]} for seed in found[AGAIN])).interval()
        claim = f"{AGAIN} left out: {method}, seed 0 again, in the recorded 95% interval of a seed"
        yield between(claim, result[method], round(low, 4), round(high, 4), digits=4)
    yield measured("that took", f"{time.monotonic() - began:.0f} s")


def write(found: Results) -> None:
    """Keep the record."""
    write_record(RECORD, {**origin(one["code"] for seeds in found.values() for one in seeds), "ways": found})


def _mean(seeds: Sequence[Found], what: str) -> float:
    return float(np.mean([seed[what] for seed in seeds]))
