"""A table over seeds: each method's mean and spread, and what it adds to one of them, seed by seed."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from training.figures import BASELINE, DISPLAY
from training.tables import MOST_DOMAINS, Table, number
from training.trials.errors import NoComparison
from training.trials.kept import Found
from training.trials.student import CONFIDENCE, Paired, holm, paired
from training.trials.trial import Trial

METRICS = {"auc": "AUC", "macro_auc": "macro AUC", "log_loss": "LogLoss"}
"""What is tested, and how it is printed."""
_NONE = "–"
_SEPARATOR = ":"


@dataclass(frozen=True)
class Line:
    """One method over its seeds.

    Args:
        name: configuration and method, `wide:multi_lora`; the method alone where there is one configuration.
        scores: seed to what `training.trials.trial.found_of` has of the method.
    """

    name: str
    scores: Mapping[int, Mapping[str, Any]]

    @property
    def shown(self) -> str:
        """The name as it is printed."""
        config, separator, method = self.name.rpartition(_SEPARATOR)
        return f"{config}{separator} {DISPLAY.get(method, method)}".strip()

    def values(self, metric: str) -> dict[int, float]:
        """A metric by seed; a seed where it is not defined is left out."""
        found = {seed: score[metric] for seed, score in self.scores.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def of_domain(self, domain: str) -> dict[int, float]:
        """The AUC of a domain by seed; a seed where it is not defined is left out."""
        found = {seed: score["domains"].get(domain) for seed, score in self.scores.items()}
        return {seed: value for seed, value in found.items() if value is not None}


class SeedsTable:
    """All methods of several configurations over several seeds.

    Args:
        found: results by trial; not all seeds of all methods need be there.
        against: name of the line that the others are compared with; None is the first configuration's backbone.
        several: the table is of several configurations, though results of one alone may be there.

    Raises:
        NoComparison: there is no line of that name, or no result at all.
    """

    def __init__(self, found: Mapping[Trial, Found], against: str | None = None, several: bool = False) -> None:
        self.lines = _lines(found, several or len({trial.method for trial in found}) > 1)
        if not self.lines:
            raise NoComparison("no training is finished")
        self._rows = {name: n for result in found.values() for name, n in result["rows"].items()}
        wanted = against or next((line.name for line in self.lines if line.name.endswith(BASELINE)), None)
        base = next((line for line in self.lines if wanted in (line.name, line.shown)), None)
        if base is None:
            known = ", ".join(line.name for line in self.lines)
            raise NoComparison(f"nothing is called {wanted!r} here; there are {known}")
        self.base = base

    def over_seeds(self, metric: str) -> Table:
        """Mean and standard deviation of a metric, and the paired difference to the base."""
        tested = {line.name: self._paired(line.values(metric), self.base.values(metric)) for line in self.lines}
        p = {name: each.p for name, each in tested.items() if each is not None and each.p is not None}
        adjusted = holm(p)
        rows = []
        for line in self.lines:
            each = None if line is self.base else tested[line.name]
            figures = (_spread(line.values(metric)), _difference(each), number(p.get(line.name), 4))
            rows.append([line.shown, str(len(line.scores)), *figures, number(adjusted.get(line.name), 4)])
        shown = METRICS[metric]
        header = ("method", "seeds", f"{shown}, mean ± sd", f"minus {self.base.shown}'s", "p", "p (Holm)")
        return Table(f"{shown} over seeds", header, rows)

    def by_domain(self) -> Table:
        """The paired difference of AUC in each domain, the largest first."""
        others = [line for line in self.lines if line is not self.base]
        rows = []
        for domain in sorted(self._rows, key=lambda name: -self._rows[name])[:MOST_DOMAINS]:
            own = self.base.of_domain(domain)
            cells = [_difference(self._paired(line.of_domain(domain), own)) for line in others]
            rows.append([domain, f"{self._rows[domain]:,}", _spread(own), *cells])
        header = ("domain", "rows", self.base.shown, *(line.shown for line in others))
        return Table(f"AUC by domain, minus {self.base.shown}'s", header, rows)

    def record(self) -> dict[str, Any]:
        """Everything as JSON values: for programs, and for a later comparison."""
        methods = {}
        for line in self.lines:
            tests = {m: self._paired(line.values(m), self.base.values(m)) for m in METRICS if line is not self.base}
            compared = {metric: None if found is None else asdict(found) for metric, found in tests.items()}
            seeds = {str(seed): dict(score) for seed, score in line.scores.items()}
            methods[line.name] = {"seeds": seeds, "against": compared}
        return {"against": self.base.name, "confidence": CONFIDENCE, "methods": methods}

    @staticmethod
    def _paired(values: Mapping[int, float], base: Mapping[int, float]) -> Paired | None:
        seeds = sorted(values.keys() & base.keys())
        return paired([values[seed] for seed in seeds], [base[seed] for seed in seeds]) if seeds else None


def check_against(against: str, configs: Collection[str]) -> None:
    """Refuse a line's name that no training can bring, before anything is trained.

    Args:
        against: name of the line.
        configs: names of the configurations.

    Raises:
        NoComparison: it names none of them, or one where there is nothing to choose from.
    """
    config = against.rpartition(_SEPARATOR)[0].strip()
    if len(configs) < 2 and config:
        raise NoComparison(f"{against!r} names a configuration; of one alone a line is called like {BASELINE!r}")
    if len(configs) > 1 and config not in configs:
        known = ", ".join(f"{name}{_SEPARATOR}{BASELINE}" for name in configs)
        raise NoComparison(f"{against!r} names no line of these configurations; lines are called like {known}")


def _lines(found: Mapping[Trial, Found], several: bool) -> tuple[Line, ...]:
    scores: dict[str, dict[int, Mapping[str, Any]]] = {}
    for trial, result in found.items():
        for method, score in result["scores"].items():
            name = f"{trial.method}{_SEPARATOR}{method}" if several else method
            scores.setdefault(name, {})[trial.seed] = score
    return tuple(Line(name, by_seed) for name, by_seed in scores.items())


def _spread(values: Mapping[int, float]) -> str:
    if not values:
        return _NONE
    found: Sequence[float] = list(values.values())
    spread = f" ± {statistics.stdev(found):.4f}" if len(found) > 1 else ""
    return f"{statistics.fmean(found):.4f}{spread}"


def _difference(found: Paired | None) -> str:
    if found is None:
        return _NONE
    if found.low is None or found.high is None:
        return f"{found.mean:+.4f}"
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
