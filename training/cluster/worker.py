"""A worker: owns domains, keeps their theta_i, and runs the loops of MAMDR on them locally (MAMDR IV-E)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from network.inputs import NetworkShape
from training.cluster.cache import EmbeddingCache, PulledRows
from training.cluster.client import Link, ParameterClient, Pulled, Values
from training.cluster.partitions import Partition, PartitionFolder
from training.cluster.parts import Part, PartFolder
from training.cluster.placement import Placement
from training.cluster.scene import Rows, Scene, StructureOf
from training.cluster.specifics import Specifics
from training.cluster.traffic import Traffic, row_bytes
from training.frameworks.config import MamdrConfig
from training.frameworks.inner import Weights
from training.frameworks.optimizers import Optimizer
from training.frameworks.regularization import Regularizer
from training.frameworks.scoring import domain_aucs
from training.frameworks.state import State
from training.frameworks.structure import TABLE
from training.seeds import Stream


@dataclass(frozen=True)
class WorkerPlace:
    """What makes a worker the one that it is.

    Args:
        index: which worker.
        owned: positions of its domains, ascending.
        names: of all domains.
        trained: positions of all domains that have training rows.
        config: the keys of the method.
        shape: of the whole network.
        structure_of: makes the network of a shape.
        stream: of the run.
        partitions: where domains' rows lie.
        parts: where checkpoints go.
        placement: of the parameters on the shards.
    """

    index: int
    owned: tuple[int, ...]
    names: tuple[str, ...]
    trained: tuple[int, ...]
    config: MamdrConfig
    shape: NetworkShape
    structure_of: StructureOf
    stream: Stream
    partitions: PartitionFolder
    parts: PartFolder
    placement: Placement


@dataclass(frozen=True)
class Outcome:
    """What a worker says after a round.

    Args:
        domains: trained, in that order.
        loss: summed over rows.
        rows: passed.
        traffic: of this round.
        version: commits in the oldest value that it pulled; -1 where it pushed nothing.
        part: the theta_i, where the round changed them.
        aucs: by domain name, where the round judged; None for one class only.
    """

    domains: tuple[str, ...] = ()
    loss: float = 0.0
    rows: int = 0
    traffic: Traffic = field(default_factory=Traffic)
    version: int = -1
    part: Part | None = None
    aucs: Mapping[str, float | None] = field(default_factory=dict)


class Worker:
    """Runs rounds over its domains. Parameters come from shards and go back to them; a theta_i never leaves.

    Args:
        place: what makes it the one that it is.
        link: to the shards.
    """

    def __init__(self, place: WorkerPlace, link: Link) -> None:
        self._place = place
        own = {domain: place.partitions.read(domain, ("train", "stop")) for domain in place.owned}
        self._own: Mapping[int, Partition] = own
        trained = frozenset(place.trained)
        self._targets = tuple(domain for domain in place.owned if domain in trained)
        self._scene = self._set(own)
        self._width = int(self._scene.setting.structure.embeddings.table.shape[1])
        self._client = ParameterClient(link, place.placement, self._width)
        self._specifics = Specifics()
        self._traffic = Traffic()

    def negotiate(self, epoch: int, ticket: str) -> Outcome:
        """Domain Negotiation over the own domains, from the latest theta_S; changes are left with the shards.

        Args:
            epoch: its number.
            ticket: under which the shards keep the changes until they are committed.
        """
        self._traffic = Traffic()
        scene, setting = self._scene, self._scene.setting
        dense = self._pull_dense()
        table = torch.empty(len(scene.view.ids), self._width)
        cache = EmbeddingCache(scene.view.ids, scene.view.padding, table)
        weights = Weights({**_tensors(dense.values), TABLE: table}, torch.zeros(len(table), dtype=torch.bool))
        version, loss, rows = dense.version, 0.0, 0
        stream, optimizer = setting.stream.of("visits", epoch), Optimizer(self._place.config.inner.rule)
        order = setting.shuffled(self._targets, stream.of("domains"))
        for domain in order:
            named = stream.of(self._place.names[domain])
            visits = setting.visit(domain, named)
            version = min(version, self._first_touch(cache, visits, version))
            loss += setting.steps(weights, setting.shared_names, visits, optimizer, named)
            rows += sum(map(len, visits))
        self._push(ticket, cache, weights, dense.values)
        return Outcome(self._names(order), loss, rows, self._traffic, version)

    def regularize(self, epoch: int, ticket: str) -> Outcome:
        """Domain Regularization of every own domain; the theta_i move, and are written to a part."""
        self._traffic = Traffic()
        dense = _tensors(self._pull_dense().values)
        pulled = PulledRows(self._pull_rows, self._width)
        rows = 0
        for targets in self._groups():
            rows += self._regularize(targets, epoch, dense, pulled)
        part = self._place.parts.write(f"worker-{self._place.index}", self._specifics.tensors())
        return Outcome(self._names(self._targets), 0.0, rows, self._traffic, part=part)

    def judge(self, epoch: int, ticket: str) -> Outcome:
        """Return the AUC of each own domain's validation rows under the latest theta_S + theta_i."""
        self._traffic = Traffic()
        setting = self._scene.setting
        aucs = domain_aucs(setting, self._latest(setting.domains.stop), setting.domains.stop)
        own = {self._place.names[domain]: aucs[domain] for domain in self._place.owned}
        return Outcome(traffic=self._traffic, aucs=own)

    def _latest(self, rows_of: Sequence[Tensor]) -> State:
        """The latest theta_S, as far as these rows read it, and the own theta_i."""
        scene = self._scene
        places, _ = scene.touched(positions for positions in rows_of if len(positions))
        self._traffic.judged_pulled += row_bytes(len(places), self._width)
        values = self._client.pull_rows(scene.view.ids[places]).values
        state = State({**_tensors(self._client.pull_dense().values), TABLE: scene.table(places, values)})
        state.specifics = self._specifics.lent(self._place.owned, scene.view, places)
        return state

    def load(self, part: Part | None) -> None:
        """Take the theta_i of a part; none are there before the first round."""
        self._specifics.load({} if part is None else self._place.parts.read(part))

    def _groups(self) -> list[tuple[int, ...]]:
        """Targets that the regularizer would train side by side; one group's rows are held at a time."""
        sizes = self._scene.setting.domains.train
        ordered = sorted(self._targets, key=lambda domain: -len(sizes[domain]))
        size = self._place.config.regularization.packed
        return [tuple(ordered[i : i + size]) for i in range(0, len(ordered), size)]

    def _regularize(self, targets: tuple[int, ...], epoch: int, dense: Mapping[str, Tensor], pulled: PulledRows) -> int:
        """Train the theta_i of some own domains beside each other; rows passed."""
        draw = Regularizer(self._scene.setting)
        met = {domain: draw.others(domain, epoch) for domain in targets}
        scene = self._set({*targets, *(other for others in met.values() for other in others)})
        regularizer = Regularizer(scene.setting)
        visits = [
            batch
            for domain, others in met.items()
            for place, other in enumerate(others)
            for batch in regularizer.visits(epoch, domain, place, other)
        ]
        places, uncached = scene.touched(visits)
        self._count_uncached(uncached, len(visits), frozen=True)
        state = State({**dense, TABLE: scene.table(places, pulled.values(scene.view.ids[places]))})
        state.specifics = self._specifics.lent(targets, scene.view, places)
        regularizer.targets(state, epoch, targets)
        for domain in targets:
            self._specifics.take(domain, state.specifics[domain], scene.view)
        return sum(map(len, visits))

    def _first_touch(self, cache: EmbeddingCache, visits: Sequence[Tensor], version: int) -> int:
        """Pull the rows that this visit to a domain touches first in this round; the oldest version among them."""
        places, uncached = self._scene.touched(visits)
        self._count_uncached(uncached, len(visits), frozen=self._place.config.embeddings == "frozen")
        new = cache.absent(places)
        if len(new) == 0:
            return version
        found = self._client.pull_rows(cache.ids(new))
        self._traffic.rows_pulled += row_bytes(len(new), self._width)
        cache.fill(new, found.values)
        return found.version

    def _push(self, ticket: str, cache: EmbeddingCache, weights: Weights, start: Mapping[str, Values]) -> None:
        """Leave dynamic - static of the touched rows, and the dense changes, with the shards; clear the caches."""
        names = self._scene.setting.shared_names
        moved = {name: weights.values[name].numpy() - start[name] for name in names if name != TABLE}
        rows, changes = cache.changes()
        if TABLE not in names:
            rows, changes = rows[:0], changes[:0]
        self._client.stage(ticket, rows, changes, moved)
        self._traffic.rows_pushed += row_bytes(len(rows), self._width)
        self._traffic.dense_pushed += sum(value.nbytes for value in moved.values())
        cache.clear()

    def _pull_dense(self) -> Pulled:
        found = self._client.pull_dense()
        self._traffic.dense_pulled += sum(value.nbytes for value in found.values.values())
        return found

    def _pull_rows(self, rows: Rows) -> Values:
        self._traffic.rows_pulled += row_bytes(len(rows), self._width)
        values: Values = self._client.pull_rows(rows).values
        return values

    def _count_uncached(self, rows: int, batches: int, frozen: bool) -> None:
        """Count what each of some minibatches would pull and push if nothing were cached."""
        moved = row_bytes(rows, self._width)
        self._traffic.uncached_pulled += moved
        if frozen:
            self._traffic.uncached_pushed_frozen += moved
        else:
            self._traffic.uncached_pushed += moved
        dense = 4 * sum(self._place.placement.sizes.values())
        self._traffic.uncached_dense += 2 * batches * dense

    def _set(self, domains: Iterable[int]) -> Scene:
        """Set a scene: own domains' rows are here, of others the training rows are read."""
        place = self._place
        rows = {
            domain: self._own[domain] if domain in self._own else place.partitions.read(domain, ("train",))
            for domain in sorted(domains)
        }
        return Scene.of(rows, place.names, place.trained, place.shape, place.structure_of, place.config, place.stream)

    def _names(self, domains: Sequence[int]) -> tuple[str, ...]:
        return tuple(self._place.names[domain] for domain in domains)


def _tensors(values: Mapping[str, Values]) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}
