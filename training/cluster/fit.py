"""The training of `training.frameworks.fit` on shards and workers: the same answer from the same setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.baselines.baseline import Baseline
from training.cluster.client import Link
from training.cluster.combining import Combination
from training.cluster.config import ClusterConfig, refuse_unspreadable
from training.cluster.driver import Crew, Driver, Records, selected_parts
from training.cluster.engine import Engine
from training.cluster.ledger import Log
from training.cluster.partitions import PartitionFolder
from training.cluster.parts import MANIFEST, PartFolder
from training.cluster.placement import Placement
from training.cluster.progress import Plan, Standing
from training.cluster.scene import StructureOf
from training.cluster.shards import ShardServer
from training.cluster.worker import Worker, WorkerPlace
from training.dataset import EncodedDataset
from training.errors import ConfigError
from training.frameworks.config import MamdrConfig
from training.frameworks.fit import SPREAD, Fitted, rows_of_epoch
from training.frameworks.setting import Setting
from training.frameworks.state import State
from training.frameworks.structure import TABLE
from training.progress import Meter
from training.threads import use_threads

LOG = "cluster.log"


@dataclass(frozen=True)
class Task:
    """What is to be trained.

    Args:
        setting: network (its own weights are the start), rows and configuration, as one process would train it.
        dataset: what `setting.rows` was made of.
        structure_of: makes the same network of another shape; must be picklable.
        identity: every setting that the result depends on, as JSON values.
    """

    setting: Setting
    dataset: EncodedDataset
    structure_of: StructureOf
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class ClusterFitted:
    """How it went.

    Args:
        fitted: the selected state and the history, as of one process.
        standing: bytes, staleness and ledger.
    """

    fitted: Fitted
    standing: Standing


def fit_on_cluster(task: Task, cluster: ClusterConfig, engine: Engine, out: Path, meter: Meter) -> ClusterFitted:
    """Train on shards and workers, from the last checkpoint if there is one.

    Args:
        task: what.
        cluster: how many processes, and when they wait.
        engine: runs them; stopped at the end, whatever happens.
        out: the run folder; every machine of the cluster must see it.
        meter: where progress goes.

    Raises:
        ConfigError: what is configured cannot be spread over workers.
        StateMismatch: the checkpoint in `out` is of other settings, or damaged.
        ClusterError: as `Driver.run`.
    """
    setting, config = task.setting, task.setting.config
    refuse_unspreadable(config)
    if setting.structure.moments():
        raise ConfigError("workers cannot measure the moments of shared norms: set network.norm to false")
    if isinstance(setting.structure, Baseline) and len(setting.structure.phases) > 1:
        raise ConfigError(f"structure {config.structure} is trained in phases, by one process: leave --ray out")
    owned = dealt([len(rows) for rows in setting.domains.train], cluster.workers)
    state = out / "state"
    parts = PartFolder(state / SPREAD)
    theta = setting.structure.theta()
    placement = Placement(cluster.shards, {name: value.numel() for name, value in theta.items() if name != TABLE})
    places = _places(task, owned, _partitions(task, out), parts, placement)
    names, trained = setting.domains.names, frozenset(setting.domains.trained)
    crew = Crew(
        engine=engine,
        shard_of=partial(_shard, placement, config, Combination(cluster.combine, config.outer.rule), parts),
        worker_of=partial(_worker, places),
        start_of=lambda shard: _start(theta, placement, shard),
        domains=[[names[domain] for domain in own if domain in trained] for own in owned],
        names=names,
    )
    identity = {**task.identity, "cluster": cluster.model_dump(mode="json", include=_DECISIVE)}
    domains = [name for domain, name in enumerate(names) if domain in trained]
    records = Records(state / MANIFEST, parts, identity, domains, Log(out / LOG, meter.say))
    with meter.watch("mamdr", config.epochs * rows_of_epoch(setting)) as advance:
        standing = Driver(crew, records, cluster, Plan.of(config), config.patience, advance).run()
    epoch = 0 if standing.best is None else int(standing.best["epoch"])
    fitted = Fitted(_selected(standing, parts, placement, theta), tuple(standing.history), epoch)
    return ClusterFitted(fitted, standing)


def _partitions(task: Task, out: Path) -> PartitionFolder:
    fields = task.setting.structure.embeddings.shape.fields
    folder = PartitionFolder(out / "partitions", tuple((f.name, f.kind) for f in fields), task.setting.domains.names)
    folder.write(task.dataset, task.setting.domains, task.identity)
    return folder


def _places(
    task: Task,
    owned: Sequence[tuple[int, ...]],
    partitions: PartitionFolder,
    parts: PartFolder,
    placement: Placement,
) -> list[WorkerPlace]:
    setting = task.setting
    return [
        WorkerPlace(
            index=index,
            owned=own,
            names=setting.domains.names,
            trained=setting.domains.trained,
            config=setting.config,
            shape=setting.structure.embeddings.shape,
            structure_of=task.structure_of,
            stream=setting.stream,
            partitions=partitions,
            parts=parts,
            placement=placement,
        )
        for index, own in enumerate(owned)
    ]


_DECISIVE = {"workers", "shards", "mode", "staleness", "combine"}
"""Keys of a cluster that decide what is learned, or how a checkpoint is laid out."""


def dealt(sizes: Sequence[int], workers: int) -> list[tuple[int, ...]]:
    """Deal domains out: the largest first, each to the worker that has the fewest rows so far.

    Args:
        sizes: training rows of each domain.
        workers: how many.

    Returns:
        Positions of each worker's domains, ascending.

    Raises:
        ConfigError: there are more workers than domains.
    """
    if workers > len(sizes):
        raise ConfigError(f"{workers} workers for {len(sizes)} domains: a domain has one worker; set workers lower")
    load: list[tuple[int, int, int]] = [(0, 0, worker) for worker in range(workers)]
    owned: list[list[int]] = [[] for _ in range(workers)]
    for domain in sorted(range(len(sizes)), key=lambda domain: (-sizes[domain], domain)):
        rows, count, worker = min(load)
        load[load.index((rows, count, worker))] = (rows + sizes[domain], count + 1, worker)
        owned[worker].append(domain)
    return [tuple(sorted(own)) for own in owned]


def _shard(
    placement: Placement, config: MamdrConfig, combination: Combination, parts: PartFolder, index: int
) -> ShardServer:
    use_threads(config.threads)
    return ShardServer(index, placement, combination, parts)


def _worker(places: Sequence[WorkerPlace], index: int, link: Link) -> Worker:
    use_threads(places[index].config.threads)
    return Worker(places[index], link)


def _start(
    theta: Mapping[str, Tensor], placement: Placement, shard: int
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
    table = theta[TABLE].numpy()
    return table[placement.rows_of(shard, len(table))], {
        name: theta[name].numpy() for name in placement.dense_of(shard)
    }


def _selected(standing: Standing, parts: PartFolder, placement: Placement, theta: Mapping[str, Tensor]) -> State:
    """Put the selected theta_S together from its shards, and the theta_i from the workers' parts."""
    of_shards, of_workers = selected_parts(standing)
    tensors = {f"shared/{name}": value for name, value in theta.items()}
    table = torch.empty_like(theta[TABLE])
    for shard, part in enumerate(of_shards):
        found = parts.read(part)
        table[torch.from_numpy(placement.rows_of(shard, len(table)))] = found[f"values/{TABLE}"]
        tensors |= {f"shared/{name}": found[f"values/{name}"] for name in placement.dense_of(shard)}
    tensors[f"shared/{TABLE}"] = table
    for part in of_workers:
        tensors |= {f"specific/{name}": value for name, value in parts.read(part).items()}
    state = State({})
    state.load(tensors)
    return state
