"""Packs as tasks of processes that may die: any free worker takes the next one, and a lost worker's is run again.

Workers keep nothing. What a pack has learned travels to the driver, which writes it where training in one process
would have: a run folder does not show how many processes filled it, and no other machine needs to see it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from training.checkpoint import Memory, Record, Saved, StateFolder
from training.cluster.client import Link
from training.cluster.engine import Engine
from training.cluster.errors import ActorLost, ClusterLost
from training.cluster.ray_engine import RayEngine
from training.config import Positive, Rate, Section, TrainingConfig
from training.errors import ConfigError
from training.packed.adapters import PackedAdapters
from training.packed.packer import MemoryOf, Packer, PackTask
from training.packed.whole import WholeTrainer
from training.pipeline import train
from training.progress import Meter
from training.stages import Run, refuse_existing
from training.threads import threads, use_threads
from training.whole import WholeKind, train_whole


class PackCluster(Section):
    """The processes that train packs; no part of what they learn.

    Args:
        workers: how many.
        restarts: how often in a row dead workers are replaced without one pack finished in between.
        object_store_bytes: memory of a Ray that is started here for objects that travel.
        start_timeout_s: how long the workers may take to come up.
    """

    workers: Positive = 2
    restarts: Annotated[int, Field(ge=0)] = 3
    object_store_bytes: Annotated[int, Field(ge=80 * 2**20)] = 200 * 2**20
    start_timeout_s: Rate = 120.0


@dataclass(frozen=True)
class Carried(Memory):
    """A checkpoint that lies on no disk: it remembers what was saved last."""

    saved: list[Saved] = field(default_factory=list)

    @classmethod
    def of(cls, name: str) -> Carried:
        """An empty one."""
        return cls(StateFolder(Path()), name, {})

    def save(self, tensors: Mapping[str, Tensor], record: Record) -> None:
        """Remember copies: training goes on in the tensors themselves."""
        self.saved[:] = [Saved({name: value.detach().clone() for name, value in tensors.items()}, record)]

    def load(self) -> Saved | None:
        """Return nothing: whoever trains with it begins at the beginning."""
        return None


class PackWorker:
    """Trains what it is given.

    Args:
        packer: what trains packs.
        cores: that torch uses here; part of the result, as in one process.
    """

    def __init__(self, packer: Packer[Any], cores: int) -> None:
        use_threads(cores)
        self._packer = packer

    def train(self, task: PackTask) -> Saved:
        """Train one pack, or one domain by itself, and return its finished checkpoint."""
        memory = Carried.of(task.name)
        self._packer.trained(task, memory)
        (saved,) = memory.saved
        return saved


class PackDriver:
    """Deals tasks out to the workers of an engine until all are done.

    Args:
        engine: runs the workers; it has no shards.
        packer: what every worker trains with.
        memory_of: where finished checkpoints are kept.
        cluster: how many workers, and how often they may be lost.
        cores: that torch uses in each.
    """

    def __init__(
        self,
        engine: Engine,
        packer: Packer[Any],
        memory_of: MemoryOf,
        cluster: PackCluster,
        cores: int,
    ) -> None:
        self._engine = engine
        self._packer = packer
        self._worker_of = partial(_worker, packer.bare(), cores)
        self._memory_of = memory_of
        self._cluster = cluster

    def run(self) -> None:
        """Train all that is not finished; the engine is stopped at the end, whatever happens.

        Raises:
            StateMismatch: a checkpoint is of other settings, or of other packs.
            ClusterUnreachable: there is no room for the workers.
            ClusterLost: workers died again and again without one pack finished in between.
            RoundFailed: training raised an error.
        """
        left = {task.name: task for task in self._packer.unfinished(self._memory_of)}
        plan = self._packer.plan.line()
        self._packer.say(f"{self._packer.title}: {plan}; {len(left)} tasks for {self._cluster.workers} workers")
        lost = 0
        try:
            while left:
                before = len(left)
                self._crew(left)
                lost = 0 if len(left) < before else lost + 1
                if lost > self._cluster.restarts:
                    raise ClusterLost(
                        f"workers died {lost} times in a row before a pack was finished, of {len(left)} that are left: "
                        "see that one pack fits into a worker's memory (packed.memory_mib), then --resume"
                    )
        finally:
            self._engine.stop()

    def _crew(self, left: dict[str, PackTask]) -> None:
        """Let fresh workers take tasks, and take what they finish out of `left`, until one of them dies."""
        workers = min(self._cluster.workers, len(left))
        self._engine.start(0, _no_shard, workers, self._worker_of)
        waiting, free = deque(left.values()), deque(range(workers))
        busy: dict[int, PackTask] = {}
        flying, whole = 0, True
        while True:
            while whole and free and waiting:
                whole = self._began(free[0], waiting[0])
                if whole:
                    busy[free.popleft()] = waiting.popleft()
                    flying += 1
            if not flying:
                break
            flying -= 1
            try:
                worker, saved = self._engine.finished()
            except ActorLost:
                whole = False  # the others finish what they have begun, and are replaced with it
                continue
            task = busy.pop(worker)
            self._keep(task, saved)
            del left[task.name]
            free.append(worker)
        if busy:
            self._packer.say(f"a worker died: {', '.join(task.name for task in busy.values())} is run again")

    def _began(self, worker: int, task: PackTask) -> bool:
        try:
            self._engine.begin(worker, "train", task)
        except ActorLost:
            return False
        return True

    def _keep(self, task: PackTask, saved: Saved) -> None:
        self._memory_of(task.name, task.content).save(saved.tensors, saved.record)
        self._packer.say(f"{self._packer.title}/{task.name} is finished")


def on_ray(address: str | None, cluster: PackCluster) -> Engine:
    """Return what runs workers on Ray.

    Args:
        address: of a running cluster; None starts one here when it is needed, and ends it.
        cluster: the processes.
    """
    return RayEngine(address, cluster.workers, cluster.object_store_bytes, cluster.start_timeout_s)


def train_packs_on(
    engine: Engine,
    stage: Literal["adapters", "all"],
    config: TrainingConfig,
    out: Path,
    cluster: PackCluster,
    *,
    resume: bool,
    meter: Meter,
) -> Path:
    """Train stage 2 with its packs on an engine; of stage `all` the stages before and after it here.

    Args:
        engine: runs the workers.
        stage: which.
        config: with `data` and `packed` set.
        out: the run folder; only this process reads and writes it.
        cluster: the processes.
        resume: go on where a run in `out` stopped; finished packs are taken.
        meter: where progress goes.

    Returns:
        The run folder, as `training.pipeline.train` leaves it.

    Raises:
        ConfigError: `packed` is not set.
        TrainingError: as `training.pipeline.train`, or the cluster cannot go on.
    """
    if config.packed is None:
        raise ConfigError("tasks of a cluster are packs: set `packed` in the configuration, or leave --ray out")
    _refuse_disk(config)
    if stage == "all":
        train("pretrain", config, out, resume=resume, meter=meter)
    else:
        refuse_existing(out, "adapters", resume)
    with threads(config.threads):
        run = Run(config, out, meter)
        with run.state.locked():
            run.require("pretrain")
            packed = PackedAdapters(run.adapter_trainer(run.pretrained()), config.packed)
            PackDriver(engine, packed, run.pack_memory, cluster, config.threads).run()
    return train("fuse", config, out, resume=True, meter=meter) if stage == "all" else out


def train_whole_on(
    engine: Engine,
    kinds: Sequence[WholeKind],
    config: TrainingConfig,
    out: Path,
    cluster: PackCluster,
    *,
    resume: bool,
    meter: Meter,
) -> Path:
    """Train baselines as `training.whole.train_whole`, with their packs on an engine.

    Args:
        engine: runs the workers; started and stopped for each baseline.
        cluster: the processes.
        kinds, config, out, resume, meter: as there.

    Raises:
        TrainingError: as there, or the cluster cannot go on.
    """
    _refuse_disk(config)

    def fill(trainer: WholeTrainer, memory_of: MemoryOf) -> None:
        PackDriver(engine, trainer, memory_of, cluster, config.threads).run()

    return train_whole(kinds, config, out, resume=resume, meter=meter, fill=fill)


def _refuse_disk(config: TrainingConfig) -> None:
    if config.rows == "disk":
        raise ConfigError("a worker of a cluster holds all rows in memory: set rows: memory, or leave --ray out")


def _worker(packer: Packer[Any], cores: int, index: int, link: Link) -> PackWorker:
    return PackWorker(packer, cores)


def _no_shard(index: int) -> object:
    raise AssertionError(f"packs need no shard, and shard {index} is asked for")
