"""The driver: deals out rounds, takes changes in, writes checkpoints, and goes back to one when a process dies."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.checkpoint import differences
from training.cluster.config import ClusterConfig
from training.cluster.engine import Engine, ShardOf, WorkerOf
from training.cluster.errors import ActorLost, ClusterLost, LedgerError
from training.cluster.ledger import Log
from training.cluster.parts import Part, PartFolder, read_manifest, write_manifest
from training.cluster.progress import Plan, Round, Standing
from training.cluster.traffic import Traffic
from training.cluster.worker import Outcome
from training.errors import StateMismatch
from training.progress import Advance

FORM = 2
"""Of the manifest. Form 1 held every entry of the ledger and every AUC itself; it is read, and written anew as this."""
Start = tuple[NDArray[np.float32], Mapping[str, NDArray[np.float32]]]
"""A shard's first values: its rows, and its dense tensors by name."""


@dataclass(frozen=True)
class Crew:
    """What is to run, and on what.

    Args:
        engine: runs it.
        shard_of, worker_of: make shard i and worker i.
        start_of: the first values of shard i; asked for only where there is no checkpoint.
        domains: names of the trained domains of each worker.
        names: of all domains.
    """

    engine: Engine
    shard_of: ShardOf
    worker_of: WorkerOf
    start_of: Callable[[int], Start]
    domains: Sequence[Sequence[str]]
    names: Sequence[str]


@dataclass(frozen=True)
class Records:
    """Where a training is remembered.

    Args:
        manifest: the file that names the parts of the last checkpoint.
        parts: the parts.
        identity: every setting that the result depends on, as JSON values.
        domains: names of those that are trained, in an order that stays.
        log: what happened.
    """

    manifest: Path
    parts: PartFolder
    identity: Mapping[str, Any]
    domains: Sequence[str]
    log: Log

    def read(self, workers: int) -> Standing:
        """Return the standing of the last checkpoint, or a fresh one.

        Raises:
            StateMismatch: it was written with other settings or by a later release, or cannot be read.
        """
        record = read_manifest(self.manifest)
        if record is None:
            return Standing.fresh(workers, self.domains)
        if record.get("form", 1) not in (1, FORM):
            raise StateMismatch(
                f"{self.manifest} is of form {record['form']}, this release knows forms 1 and {FORM}: go on with the "
                "release that wrote it, or train into another folder"
            )
        changes = differences(record.get("identity", {}), self.identity)
        if changes:
            raise StateMismatch(
                f"{self.manifest} was trained with other settings: {'; '.join(changes)}. "
                "Put the settings back, or train into another folder"
            )
        try:
            return Standing.of(record, self.domains, self.parts.read_aucs)
        except LedgerError as error:
            raise StateMismatch(f"the ledger in {self.manifest}: {error}; train into another folder") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateMismatch(f"{self.manifest} is no manifest ({error!r}); train into another folder") from None

    def write(self, standing: Standing) -> None:
        """Put a standing in place of the one before. What grows with domains and epochs is written once, in parts."""
        for entry in standing.history[len(standing.aucs) :]:
            standing.aucs.append(self.parts.write_aucs(entry["epoch"], entry["aucs"]))
        write_manifest(self.manifest, {"form": FORM, **standing.record(), "identity": dict(self.identity)})


@dataclass
class _Flight:
    """What has begun since the last checkpoint and is not taken in."""

    busy: set[int] = field(default_factory=set)
    arrived: dict[int, Outcome] = field(default_factory=dict)


@dataclass(frozen=True)
class _Written:
    """What the manifest on disk says, so that it need not be read again.

    Args:
        parts: that it names.
        commits: that the shards' parts contain; None where there are none.
    """

    parts: frozenset[Part]
    commits: int | None

    @classmethod
    def of(cls, standing: Standing) -> _Written:
        return cls(frozenset(standing.parts()), standing.commits if standing.shards else None)


class Driver:
    """Trains to the end over processes that may die.

    Args:
        crew: what runs.
        records: where it is remembered.
        cluster: shards, workers and when they wait.
        plan: the rounds.
        patience: epochs without a better mean AUC before it stops.
        advance: told the rows that a round passed, once they are taken in.
        clock: seconds.
    """

    def __init__(
        self,
        crew: Crew,
        records: Records,
        cluster: ClusterConfig,
        plan: Plan,
        patience: int,
        advance: Advance = lambda rows: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._crew = crew
        self._engine = crew.engine
        self._records = records
        self._cluster = cluster
        self._plan = plan
        self._patience = patience
        self._advance = advance
        self._clock = clock
        self._epoch_began = clock()
        self._attempt = ""
        self._standing = Standing.fresh(cluster.workers, records.domains)
        self._written = _Written.of(self._standing)

    def run(self) -> Standing:
        """Train from the last checkpoint to the end, back to it as often as a process dies.

        Raises:
            StateMismatch: the checkpoint is of other settings, or damaged.
            ClusterLost: processes died `restarts` times in a row without a round completed in between.
            ClusterUnreachable: there is no room for the processes.
            RoundFailed: a round broke by an error that would come again.
        """
        failures, before = 0, -1
        self._go_back()
        self._records.parts.keep(self._standing.parts())
        try:
            while not self._over():
                self._told_again()
                try:
                    self._bring_up()
                    self._train()
                except ActorLost as error:
                    self._go_back()
                    failures = failures + 1 if sum(self._standing.done) == before else 1
                    before = sum(self._standing.done)
                    self._records.log.write("lost", f"{error}; going back to the last checkpoint", what=str(error))
                    if failures > self._cluster.restarts:
                        raise ClusterLost(
                            f"{error}; that was the {failures}th time in a row without a round completed. "
                            "--resume tries again from the last checkpoint"
                        ) from None
            return self._standing
        finally:
            self._engine.stop()

    def _go_back(self) -> None:
        """Take the last checkpoint from disk."""
        self._standing = self._records.read(self._cluster.workers)
        self._written = _Written.of(self._standing)

    def _bring_up(self) -> None:
        """Start every process, with the parameters of the last checkpoint or with first ones."""
        cluster, standing, crew = self._cluster, self._standing, self._crew
        self._attempt = secrets.token_hex(4)
        places = self._engine.start(cluster.shards, crew.shard_of, cluster.workers, crew.worker_of)
        self._records.log.write(
            "start", attempt=self._attempt, shards=places[: cluster.shards], workers=places[cluster.shards :]
        )
        if not standing.shards:
            self._engine.shards("start", [crew.start_of(shard) for shard in range(cluster.shards)])
            self._checkpoint()
            return
        self._engine.shards("restore", [(part,) for part in standing.shards])
        for worker, part in enumerate(standing.workers):
            self._engine.begin(worker, "load", part)
        for _ in standing.workers:
            self._engine.finished()

    def _train(self) -> None:
        flight = _Flight()
        while not self._over():
            for worker in range(self._cluster.workers):
                if self._may_begin(worker, flight):
                    self._begin(worker, flight)
            worker, outcome = self._engine.finished()
            flight.busy.discard(worker)
            flight.arrived[worker] = outcome
            if self._cluster.mode == "async" or len(flight.arrived) == self._cluster.workers:
                arrived, flight.arrived = flight.arrived, {}
                self._take(dict(sorted(arrived.items())))

    def _over(self) -> bool:
        epoch = len(self._standing.history)
        return epoch >= self._plan.epochs or (epoch > 0 and self._standing.stopping(self._patience).exhausted(epoch))

    def _may_begin(self, worker: int, flight: _Flight) -> bool:
        """Whether a worker's next round may start now: in step with all, or not too far ahead of the slowest."""
        number, slowest = self._standing.done[worker], min(self._standing.done)
        if worker in flight.busy or worker in flight.arrived or number >= self._plan.rounds:
            return False
        if self._cluster.mode == "sync":
            return number == slowest
        phases = len(self._plan.phases)
        return number // phases <= slowest // phases + self._cluster.staleness

    def _begin(self, worker: int, flight: _Flight) -> None:
        number = self._standing.done[worker]
        task = self._plan.round(number)
        domains = [] if task.phase == "judge" else list(self._crew.domains[worker])
        self._records.log.write(
            "begin", worker=worker, round=number, epoch=task.epoch, phase=task.phase, domains=domains
        )
        flight.busy.add(worker)
        self._engine.begin(worker, task.method, task.epoch, self._ticket(worker, number))

    def _take(self, outcomes: Mapping[int, Outcome]) -> None:
        """Take rounds in: changes are committed together, then the ledger, then a checkpoint if all have moved on."""
        standing = self._standing
        slowest = min(standing.done)
        tasks = {worker: self._plan.round(standing.done[worker]) for worker in outcomes}
        tickets = [self._ticket(w, standing.done[w]) for w, task in tasks.items() if task.phase == "dn"]
        if tickets:
            for worker, outcome in outcomes.items():
                if tasks[worker].phase == "dn":
                    standing.staleness.observe(standing.commits - outcome.version)
            self._engine.shards("commit", [(tickets,)] * self._cluster.shards)
            standing.commits += 1
        for worker, outcome in outcomes.items():
            self._enter(worker, tasks[worker], outcome)
        if min(standing.done) > slowest:
            self._checkpoint()

    def _enter(self, worker: int, task: Round, outcome: Outcome) -> None:
        standing = self._standing
        standing.ledger.add((task.epoch, task.phase, domain) for domain in outcome.domains)
        standing.by_phase[task.phase] = standing.by_phase.get(task.phase, Traffic()) + outcome.traffic
        if task.phase == "dn":
            sums = standing.losses.setdefault(task.epoch, [0.0, 0])
            sums[0] += outcome.loss
            sums[1] += outcome.rows
        if task.phase == "judge":
            standing.judged.setdefault(task.epoch, {}).update(outcome.aucs)
        if outcome.part is not None:
            standing.workers[worker] = outcome.part
        self._records.log.write(
            "taken",
            worker=worker,
            round=standing.done[worker],
            epoch=task.epoch,
            phase=task.phase,
            domains=list(outcome.domains),
            commits=standing.commits,
        )
        standing.done[worker] += 1
        self._advance(outcome.rows)

    def _checkpoint(self) -> None:
        """Write parts that changed, then the manifest that names them; what is no longer named is deleted."""
        standing, before = self._standing, self._written
        if before.commits != standing.commits:
            standing.shards = self._engine.shards("save", [()] * self._cluster.shards)
        seconds = self._clock() - self._epoch_began
        while (entry := standing.select(self._patience, self._crew.names, seconds)) is not None:
            self._epoch_began = self._clock()
            shown = "undefined (one class)" if entry["auc"] is None else f"{entry['auc']:.5f}"
            self._records.log.write(
                "judged",
                f"mamdr on {self._cluster.workers} workers, epoch {entry['epoch']}: loss {entry['loss']:.4f}, "
                f"mean validation AUC {shown}, {seconds:.1f} s",
                epoch=entry["epoch"],
                auc=entry["auc"],
            )
        self._records.write(standing)
        self._written = _Written.of(standing)
        self._records.parts.drop(before.parts - self._written.parts)
        self._records.log.write("checkpoint", done=standing.done, commits=standing.commits)

    def _told_again(self) -> None:
        """Say what had begun after the last checkpoint, by whatever run, and is therefore trained again."""
        begun: set[tuple[int, str, str]] = set()
        for event in self._records.log.events():
            if event["event"] == "again":
                begun.clear()  # said already
            elif event["event"] == "begin" and event["round"] >= self._standing.done[event["worker"]]:
                begun |= {(event["epoch"], event["phase"], domain) for domain in event["domains"]}
        again = sorted(begun)
        if again:
            self._records.log.write(
                "again",
                f"{len(again)} domain phases had begun after the last checkpoint; nothing of them was kept, and they "
                "are trained again",
                entries=[list(entry) for entry in again],
            )

    def _ticket(self, worker: int, number: int) -> str:
        return f"{self._attempt}/{worker}/{number}"


def selected_parts(standing: Standing) -> tuple[list[Part], list[Part]]:
    """Return the parts of the selected epoch: of the shards, and of the workers that have a theta_i."""
    best = standing.best or {"shards": [], "workers": []}
    return [Part(**part) for part in best["shards"]], [Part(**part) for part in best["workers"] if part is not None]
