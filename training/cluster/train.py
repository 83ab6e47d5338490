"""`espalier train mamdr --ray`: as `training.frameworks.run.train_mamdr`, on a cluster."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from training.cluster.config import ClusterConfig
from training.cluster.engine import Engine
from training.cluster.fit import ClusterFitted, Task, fit_on_cluster
from training.cluster.ray_engine import RayEngine
from training.errors import StateMismatch
from training.frameworks.config import MamdrConfig
from training.frameworks.fit import SPREAD, STATE, remember
from training.frameworks.run import MamdrRun, finish, network_of
from training.progress import Meter, SilentMeter
from training.stages import refuse_existing
from training.threads import threads


def train_on_ray(
    config: MamdrConfig,
    out: Path,
    *,
    address: str | None = None,
    resume: bool = False,
    meter: Meter | None = None,
    cluster: ClusterConfig | None = None,
) -> Path:
    """Train Domain Negotiation or MAMDR on Ray, then finetune, evaluate, export and report here.

    Args:
        config: with `data` set.
        out: the run folder, made if it is not there; every machine of the cluster must see it at this path.
        address: of a running Ray cluster; None starts one here, and ends it.
        resume: go on where a run in `out` stopped.
        meter: where progress goes; nowhere by default.
        cluster: processes and when they wait for each other.

    Returns:
        The run folder, with what `train_mamdr` leaves in it, and `cluster.log`.

    Raises:
        TrainingError: the folder holds another run, the data or the configuration cannot be used, or the cluster
            cannot go on.
    """
    settings = cluster or ClusterConfig()
    engine = RayEngine(address, settings.workers, settings.object_store_bytes, settings.start_timeout_s)
    return train_on(engine, config, out, settings, resume=resume, meter=meter or SilentMeter())


def train_on(
    engine: Engine, config: MamdrConfig, out: Path, cluster: ClusterConfig, *, resume: bool, meter: Meter
) -> Path:
    """Do the same on any engine. The finished training is left as one process leaves it, for domains to be added to."""
    refuse_existing(out, "all", resume)
    with threads(config.threads):
        run = MamdrRun(config, out, meter)
        with run.state.locked():
            if run.state.holds(STATE) and not run.state.holds(SPREAD):
                raise StateMismatch(f"{out} was trained by one process: leave --ray out, or train into another folder")
            found = fit_on_cluster(task_of(run), cluster, engine, out, meter)
            remember(run.memory(STATE), found.fitted)
            for line in summary(found, cluster):
                meter.say(line)
            return finish(run, found.fitted, run.finetuned(found.fitted))


def task_of(run: MamdrRun) -> Task:
    """Return a run as a cluster takes it."""
    structure_of = partial(network_of, run.config, len(run.domains), dict(run.dataset.given))
    return Task(run.setting, run.dataset, structure_of, run.memory(STATE).identity)


def summary(found: ClusterFitted, cluster: ClusterConfig) -> list[str]:
    """Say what travelled, and how stale pseudo-gradients were."""
    standing, moved = found.standing, found.standing.traffic
    lines = [
        f"rows of embeddings: {moved.rows_pulled / 1e6:.1f} MB pulled, {moved.rows_pushed / 1e6:.1f} MB pushed; "
        f"dense parameters: {moved.dense_pulled / 1e6:.1f} MB pulled, {moved.dense_pushed / 1e6:.1f} MB pushed"
    ]
    if moved.saving is not None:
        lines.append(f"without caches each minibatch would move its rows: {moved.saving:.1f} times as many bytes")
    stale = standing.staleness
    lines.append(
        f"outer updates that a pseudo-gradient missed: at most {stale.largest}, {stale.mean:.2f} on average "
        f"(bound: {cluster.stale_commits})"
    )
    return lines
