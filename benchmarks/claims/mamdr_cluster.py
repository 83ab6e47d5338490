"""MAMDR over shards and workers on Ray: equal to one process, its bytes against none cached, and killed processes."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.claims import mamdr_epinions, trainings
from benchmarks.claims.line import Line, Verdict, at_least, at_most, exactly, measured, not_measurable
from benchmarks.claims.workplace import ROOT, ClaimError, Workplace
from benchmarks.killing import HeldEngine, KillingEngine, kill_held
from training.cluster.config import ClusterConfig
from training.cluster.engine import DirectEngine, Engine
from training.cluster.fit import ClusterFitted, fit_on_cluster
from training.cluster.ray_engine import RayEngine
from training.cluster.train import task_of
from training.frameworks.config import MamdrConfig
from training.frameworks.run import MamdrRun
from training.frameworks.scoring import domain_aucs, mean_auc
from training.frameworks.state import State
from training.progress import SilentMeter
from training.sources.synthetic import SyntheticWorld, synthetic
from training.threads import use_threads

WORLD = SyntheticWorld(seed=0, rows=30_000, users=400, items=150, domains=8, segments=2)
KEYS: dict[str, Any] = {
    "framework": "mamdr",
    "network": {"width": 8, "tower": [32, 16], "dropout": 0.1, "embedding_std": 0.1},
    "inner": {"lr": 5e-3},  # eight epochs then come to an AUC of 0.75; with a tenth of the spread, to 0.68
    "outer": {"lr": 0.5},
    "batch_rows": 256,
    "epochs": 8,
    "regularization": {"others": 3},
}
NOISE: dict[str, Any] = {
    **KEYS,
    "framework": "dn",
    "network": {**KEYS["network"], "embedding_std": 0.05},
    "inner": {"lr": 2e-3},
    "outer": {"lr": 0.5},  # times 4 workers is 2: changes that only add up would overshoot
    "epochs": 120,  # bounded changes of 4 workers move half as far an epoch as one worker, and need twice as many
    "patience": 120,  # the first epochs stand nearly still, which is no reason to stop
}
BYTES: dict[str, Any] = {
    "framework": "mamdr",
    "network": {"width": 16, "tower": [64, 32]},
    "epochs": 1,
    "regularization": {"others": 3},
}
SEEDS = range(3)
STORE_BYTES = 200 * 2**20


def lines(work: Workplace) -> Iterator[Line]:
    """Equality and noise, staleness, kills, then bytes."""
    use_threads(1)
    data = trainings.fresh(work, "cluster-data")
    if not (data / "spec.json").exists():
        synthetic(WORLD).write(data)
    yield from equality_lines(work, data)
    yield from worker_lines(work, data)
    yield from async_lines(work, data)
    yield from killed_lines(work, data)
    yield from byte_lines(work, data)


def config_of(work: Workplace, data: Path, seed: int = 0, keys: Mapping[str, Any] = KEYS) -> MamdrConfig:
    """The configuration of the small runs."""
    changes = {"epochs": 2} if work.quick else {}
    return MamdrConfig.model_validate({**keys, **changes, "data": data, "seed": seed})


def fresh(work: Workplace, name: str) -> Path:
    """A run folder that was never used."""
    return next(path for i in itertools.count() if not (path := work.folder / "cluster" / f"{name}-{i}").exists())


def on_cluster(run: MamdrRun, cluster: ClusterConfig, engine: Engine | None = None) -> ClusterFitted:
    """Train a run on an engine; Ray started here, if none is given."""
    ray = engine or RayEngine(None, cluster.workers, STORE_BYTES, cluster.start_timeout_s)
    return fit_on_cluster(task_of(run), cluster, ray, run.out, run.meter)


def run_of(config: MamdrConfig, out: Path) -> MamdrRun:
    """A run in a new folder."""
    return MamdrRun(config, out, SilentMeter())


def test_auc(run: MamdrRun, state: State) -> float:
    """Mean over domains of the test rows' AUC."""
    found = mean_auc(domain_aucs(run.setting, state, run.setting.domains.test))
    if found is None:
        raise ClaimError("no domain's test rows have both classes")
    return found


def different(one: State, other: State) -> int:
    """How many learned tensors are not the same bits."""
    a, b = one.learned(), other.learned()
    return len(a.keys() ^ b.keys()) + sum(not torch.equal(a[name], b[name]) for name in a.keys() & b.keys())


def equality_lines(work: Workplace, data: Path) -> Iterator[Line]:
    """One worker against one process, on Ray."""
    config = config_of(work, data)
    alone = run_of(config, fresh(work, "alone")).fitted()
    spread = on_cluster(run_of(config, fresh(work, "one-worker")), ClusterConfig(workers=1, shards=2))
    tensors = len(alone.state.learned())
    claim = f"sync, 1 worker and 2 shards on Ray: of {tensors} tensors of theta, not the single process's bits"
    yield exactly(claim, different(alone.state, spread.fitted.state), 0)


def worker_lines(work: Workplace, data: Path) -> Iterator[Line]:
    """Two and four workers against one, over seeds; seed 0 with 4 workers also on Ray."""
    seeds = SEEDS[:2] if work.quick else SEEDS
    aucs: dict[int, list[float]] = {1: [], 2: [], 4: []}
    spread: dict[int, ClusterFitted] = {}
    for seed, workers in itertools.product(seeds, aucs):
        run = run_of(config_of(work, data, seed, NOISE), fresh(work, f"workers-{workers}"))
        found = on_cluster(run, ClusterConfig(workers=workers), DirectEngine())
        aucs[workers].append(test_auc(run, found.fitted.state))
        if seed == 0:
            spread[workers] = found
    noise = statistics.stdev(aucs[1])
    yield measured(
        f"DN: mean per-domain test AUC of 1 worker, {len(seeds)} seeds",
        f"{statistics.mean(aucs[1]):.4f}, standard deviation over seeds {noise:.4f}",
    )
    for workers in (2, 4):
        away = statistics.mean(b - a for a, b in zip(aucs[1], aucs[workers], strict=True))
        claim = (
            f"sync, DN, bounded changes, {NOISE['epochs']} epochs, {workers} workers: mean test AUC less that of 1 "
            f"worker, same seeds ({away:+.4f}), without sign"
        )
        yield at_most(claim, abs(away), round(noise, 4), digits=4)
    again = on_cluster(run_of(config_of(work, data, 0, NOISE), fresh(work, "four-on-ray")), ClusterConfig(workers=4))
    claim = "sync, 4 workers on Ray: tensors that are not the bits of 4 workers in one process"
    yield exactly(claim, different(spread[4].fitted.state, again.fitted.state), 0)


def async_lines(work: Workplace, data: Path) -> Iterator[Line]:
    """What async workers missed, and what they reached."""
    cluster = ClusterConfig(workers=4, shards=2, mode="async", staleness=1)
    run = run_of(config_of(work, data), fresh(work, "async"))
    found = on_cluster(run, cluster)
    stale = found.standing.staleness
    claim = f"async, 4 workers, staleness 1: outer updates a pseudo-gradient missed at most (mean {stale.mean:.2f})"
    yield at_most(claim, stale.largest, cluster.stale_commits, digits=0)
    in_step = run_of(config_of(work, data), fresh(work, "in-step"))
    beside = on_cluster(in_step, ClusterConfig(workers=4), DirectEngine())
    figure = f"{test_auc(run, found.fitted.state):.4f} (sync: {test_auc(in_step, beside.fitted.state):.4f})"
    yield measured("async, 4 workers: mean per-domain test AUC, seed 0", figure)


def killed_lines(work: Workplace, data: Path) -> Iterator[Line]:
    """SIGKILL of each kind of process in mid-epoch."""
    config, cluster = config_of(work, data), ClusterConfig(workers=2, shards=2)
    undisturbed_run = run_of(config, fresh(work, "undisturbed"))
    undisturbed = on_cluster(undisturbed_run, cluster, DirectEngine())
    wanted = sorted(undisturbed.standing.ledger.entries)
    base = test_auc(undisturbed_run, undisturbed.fitted.state)
    for who, victims in (("a worker", {9: 3}), ("a shard", {10: 1})):
        run = run_of(config, fresh(work, "killed"))
        engine = KillingEngine(victims, cpus=cluster.workers)
        found = on_cluster(run, cluster, engine)
        if len(engine.killed) != 1:
            raise ClaimError(f"{who} was not killed")
        yield from _kept(who, run, found, base, wanted)
    run = run_of(config, fresh(work, "killed-driver"))
    left = kill_driver(config, run.out, begun=10)  # both workers: an epoch of dn, dr, judge; dn, and dr has begun
    yield exactly("processes that a killed driver's cluster leaves behind, Ray's own agents apart", left, 0)
    yield from _kept("the driver", run, on_cluster(run, cluster), base, wanted)


def _kept(who: str, run: MamdrRun, found: ClusterFitted, base: float, wanted: list[Any]) -> Iterator[Line]:
    away = abs(test_auc(run, found.fitted.state) - base)
    yield at_most(f"SIGKILL of {who} in mid-epoch: test AUC away from the undisturbed run's", away, 0.001, digits=6)
    entries = sorted(found.standing.ledger.entries)
    log = [json.loads(line) for line in (run.out / "cluster.log").read_text().splitlines()]
    began = sum(len(event["domains"]) for event in log if event["event"] == "begin")
    again = sum(len(event["entries"]) for event in log if event["event"] == "again")
    figure = f"{len(entries)} of {len(wanted)} entered once; {began - len(wanted)} begun twice, {again} of them told"
    holds = entries == wanted and again == began - len(wanted) and again > 0
    verdict: Verdict = "holds" if holds else "falls short"
    yield Line(
        f"SIGKILL of {who}: phases of domains in the ledger, and trained again", figure, "all, all told", verdict
    )


def kill_driver(config: MamdrConfig, out: Path, begun: int) -> int:
    """Kill a driver of its own that stands still after `begun` rounds; how many of its processes outlive a minute."""
    command = [sys.executable, "-m", "benchmarks.claims.mamdr_cluster", config.model_dump_json(), str(out), str(begun)]
    out.mkdir(parents=True)
    log = out.parent / "killed-driver.log"
    with log.open("ab") as errors:
        left = kill_held(command, cwd=ROOT, stderr=errors, env={**os.environ, "PYTHONPATH": str(ROOT)})
    if left is None:
        raise ClaimError(f"the driver did not come to round {begun}; see {log}")
    return len(left)


def byte_lines(work: Workplace, small: Path) -> Iterator[Line]:
    """Bytes of rows with caches and without, in one run."""
    claims = {"dn": ("Domain Negotiation", 3.0), "all": ("a MAMDR epoch, k = 3", 5.0)}
    if not (work.data / "epinions").exists():
        for what, bound in claims.values():
            yield not_measurable(f"{what}: bytes without caches over bytes with", f">= {bound:g}", "no data at hand")
        return
    data = small if work.quick else mamdr_epinions.prepare(work)
    config = MamdrConfig.model_validate({**BYTES, "data": data})
    cluster = ClusterConfig(workers=2, shards=2)
    found = on_cluster(run_of(config, fresh(work, "bytes")), cluster)
    of: Mapping[str, Any] = {"dn": found.standing.by_phase["dn"], "all": found.standing.traffic}
    for name, (what, bound) in claims.items():
        traffic = of[name]
        moved = f"{(traffic.rows_pulled + traffic.rows_pushed) / 1e6:.0f} MB"
        set_name = "a small world" if work.quick else "epinions-mdr"
        claim = f"{set_name}, 2 workers, {what} ({moved}): bytes of rows without caches over with"
        yield at_least(claim, traffic.saving or 0.0, bound, digits=2)
    strict = found.standing.traffic.strict_saving or 0.0
    yield measured("the same epoch, if without caches nothing is pushed that did not change", f"{strict:.2f}")


if __name__ == "__main__":
    killed = MamdrConfig.model_validate_json(sys.argv[1])
    use_threads(1)
    held = HeldEngine(int(sys.argv[3]), cpus=2, object_store_bytes=STORE_BYTES)
    on_cluster(run_of(killed, Path(sys.argv[2])), ClusterConfig(workers=2, shards=2), held)
