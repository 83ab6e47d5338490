"""How far a cluster's training is: what a manifest says, and where a resumed one goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from training.cluster.ledger import Ledger
from training.cluster.parts import Part, part_record
from training.cluster.traffic import Traffic
from training.early_stopping import EarlyStopping
from training.frameworks.config import MamdrConfig
from training.frameworks.scoring import mean_auc

Record = dict[str, Any]

AucsOf = Callable[[Part], list[float | None]]
_AUCS = "aucs"
_METHODS = {"dn": "negotiate", "dr": "regularize", "judge": "judge"}


@dataclass(frozen=True)
class Round:
    """One piece of work that every worker does once.

    Args:
        epoch: from 1.
        phase: dn, dr or judge.
    """

    epoch: int
    phase: str

    @property
    def method(self) -> str:
        """The worker's method that does it."""
        return _METHODS[self.phase]


@dataclass(frozen=True)
class Plan:
    """The order of rounds.

    Args:
        phases: of each epoch, in order.
        epochs: at most.
    """

    phases: tuple[str, ...]
    epochs: int

    @classmethod
    def of(cls, config: MamdrConfig) -> Plan:
        """Return the rounds that a framework consists of."""
        return cls(("dn", "dr", "judge") if config.framework == "mamdr" else ("dn", "judge"), config.epochs)

    def round(self, number: int) -> Round:
        """Return a round by its number, from 0."""
        epoch, phase = divmod(number, len(self.phases))
        return Round(epoch + 1, self.phases[phase])

    @property
    def rounds(self) -> int:
        """How many rounds there are at most."""
        return self.epochs * len(self.phases)


@dataclass
class Staleness:
    """Commits that pseudo-gradients had missed when they were taken in."""

    count: int = 0
    total: int = 0
    largest: int = 0

    def observe(self, missed: int) -> None:
        """Take one in."""
        self.count += 1
        self.total += missed
        self.largest = max(self.largest, missed)

    @property
    def mean(self) -> float:
        """Their mean; 0 without any."""
        return self.total / self.count if self.count else 0.0


@dataclass
class Standing:
    """Everything that a manifest holds.

    Args:
        done: rounds that each worker has completed.
        shards: the part of each shard; empty before the first checkpoint.
        workers: the part of each worker; None where it has no theta_i yet.
        commits: that the shards' parts contain.
        ledger: what the parameters contain.
        aucs: the part of each epoch's AUC by domain, in the order of the history; the history holds them as well.
        judged: epoch to the AUC of each domain, of epochs that not every worker has judged yet.
        history: a record for each judged epoch {epoch, loss, auc, aucs}.
        losses: epoch to [sum of losses, rows].
        best: parts of the selected epoch {epoch, shards, workers}; None before it.
        traffic, by_phase: bytes so far, all together and by phase.
        staleness: so far.
    """

    done: list[int]
    ledger: Ledger
    shards: list[Part] = field(default_factory=list)
    workers: list[Part | None] = field(default_factory=list)
    commits: int = 0
    judged: dict[int, dict[str, float | None]] = field(default_factory=dict)
    history: list[Record] = field(default_factory=list)
    aucs: list[Part] = field(default_factory=list)
    losses: dict[int, list[float]] = field(default_factory=dict)
    best: Record | None = None
    by_phase: dict[str, Traffic] = field(default_factory=dict)
    staleness: Staleness = field(default_factory=Staleness)

    @classmethod
    def fresh(cls, workers: int, domains: Sequence[str]) -> Standing:
        """Return the standing before the first round.

        Args:
            workers: how many.
            domains: names of those that are trained.
        """
        return cls([0] * workers, Ledger(domains), workers=[None] * workers)

    @property
    def traffic(self) -> Traffic:
        """All bytes so far."""
        return sum(self.by_phase.values(), Traffic())

    def parts(self) -> set[Part]:
        """Every part that is named: the latest ones, those of the selected epoch, and every epoch's AUC."""
        named = {*self.shards, *self.aucs, *(part for part in self.workers if part is not None)}
        if self.best is not None:
            named |= {Part(**part) for part in (*self.best["shards"], *self.best["workers"]) if part is not None}
        return named

    def stopping(self, patience: int) -> EarlyStopping:
        """Return the early stopping as the history left it."""
        stopping = EarlyStopping(patience)
        for entry in self.history:
            stopping.observe(entry["epoch"], entry["auc"])
        return stopping

    def select(self, patience: int, names: Sequence[str], seconds: float) -> Record | None:
        """Enter the oldest epoch that every domain is judged of into the history; it is selected if it is the best.

        Args:
            patience: epochs without a better mean before training stops.
            names: of all domains.
            seconds: since the epoch before was entered.

        Returns:
            Its record; None if no epoch is complete.
        """
        epoch = len(self.history) + 1
        found = self.judged.get(epoch, {})
        if len(found) < len(names):
            return None
        del self.judged[epoch]
        aucs = [found[name] for name in names]
        loss, rows = self.losses.pop(epoch, [0.0, 0])
        entry: Record = {"epoch": epoch, "loss": loss / max(rows, 1), "auc": mean_auc(aucs), "aucs": aucs}
        entry["seconds"] = round(seconds, 3)
        stopping = self.stopping(patience)
        self.history.append(entry)
        # without any AUC there is nothing to select by: the last epoch is kept
        if stopping.observe(epoch, entry["auc"]) or stopping.best_epoch is None:
            self.best = {"epoch": epoch, "shards": _records(self.shards), "workers": _records(self.workers)}
        return entry

    def record(self) -> Record:
        """Return everything as JSON values, but for what each domain came to, which the parts `aucs` hold."""
        return {
            "done": self.done,
            "shards": _records(self.shards),
            "workers": _records(self.workers),
            "commits": self.commits,
            "ledger": self.ledger.record(),
            "judged": {str(epoch): aucs for epoch, aucs in self.judged.items()},
            "history": [{key: value for key, value in entry.items() if key != _AUCS} for entry in self.history],
            "aucs": _records(self.aucs),
            "losses": {str(epoch): sums for epoch, sums in self.losses.items()},
            "best": self.best,
            "traffic": {phase: traffic.record() for phase, traffic in self.by_phase.items()},
            "staleness": asdict(self.staleness),
        }

    @classmethod
    def of(cls, record: Mapping[str, Any], domains: Sequence[str], aucs_of: AucsOf) -> Standing:
        """Take what `record` gave, or what it gave when it still held every AUC and every entry itself.

        Args:
            record: of a manifest.
            domains: names of those that are trained.
            aucs_of: reads a part that holds the AUC of every domain.

        Raises:
            LedgerError: its ledger is of other domains, or cannot be read.
            StateMismatch: a part is missing or damaged.
            KeyError, TypeError, ValueError: it is no such record.
        """
        aucs = [Part(**part) for part in record.get("aucs", ())]
        history = [{**entry, _AUCS: aucs_of(part)} for entry, part in zip(record["history"], aucs, strict=False)]
        history += [{**entry, _AUCS: list(entry[_AUCS])} for entry in record["history"][len(aucs) :]]
        return cls(
            done=list(record["done"]),
            aucs=aucs,
            shards=[Part(**part) for part in record["shards"]],
            workers=[None if part is None else Part(**part) for part in record["workers"]],
            commits=int(record["commits"]),
            ledger=Ledger.of(record["ledger"], domains),
            judged={int(epoch): dict(aucs) for epoch, aucs in record["judged"].items()},
            history=history,
            losses={int(epoch): list(sums) for epoch, sums in record["losses"].items()},
            best=record["best"],
            by_phase={phase: Traffic.of(counts) for phase, counts in record["traffic"].items()},
            staleness=Staleness(**record["staleness"]),
        )


def _records(parts: Sequence[Part | None]) -> list[Record | None]:
    return [None if part is None else part_record(part) for part in parts]
