"""A table of methods on one data set: each tuned on seed 0, then five seeds; recorded, and checked again by seed 0.

FULL=1 tunes, runs every seed and writes the record, in as many sittings as it takes. Otherwise seed 0 is run again with
the recorded configurations, as far as a budget of time allows, and must lie in the interval of the recorded seeds; the
table and the aims are those of the record, and say so. Without a record every aim falls short.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.claims.line import Line, between, measured
from benchmarks.claims.mamdr_trial import Found, Trial, run_all
from benchmarks.claims.trainings import RECORDS, dated, origin, sittings, write_record
from benchmarks.claims.workplace import Workplace
from training.stages import folder_digest
from training.trials.student import CONFIDENCE, paired, quantile

SEEDS = (0, 1, 2, 3, 4)
MOST_CONFIGURATIONS = 4
NOT_RECORDED = "not recorded yet: FULL=1"
_PASSES = {
    "ple": 15.0,
    **dict.fromkeys(("cgc", "pcgrad", "mldg", "maml"), 6.0),
    **dict.fromkeys(("mmoe", "star"), 5.0),
    **dict.fromkeys(("hamur", "plate"), 3.0),
    **dict.fromkeys(("shared_bottom", "finetune"), 2.0),
}
"""Decides the order of trainings alone; single epochs were timed of some of them (docs/decisions/)."""


def full() -> bool:
    """Whether everything is to be run."""
    return os.environ.get("FULL") == "1"


@dataclass(frozen=True)
class Method:
    """What stands in the table.

    Args:
        name: in the table.
        grid: configurations to tune over, each some keys of a MamdrConfig; at most four.
    """

    name: str
    grid: tuple[Mapping[str, Any], ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.grid) <= MOST_CONFIGURATIONS:
            raise ValueError(f"{self.name} has {len(self.grid)} configurations; a method is tuned over 1 to 4")


@dataclass(frozen=True)
class Row:
    """A method's recorded results.

    Args:
        config: the one that seed 0's validation preferred.
        seeds: what each seed gave, in order of the seeds.
    """

    config: dict[str, Any]
    seeds: tuple[Found, ...]

    @property
    def means(self) -> list[float]:
        """Mean per-domain test AUC of each seed."""
        return [float(found["test"]) for found in self.seeds]

    def interval(self) -> tuple[float, float]:
        """Where one more training may lie, 95%, by the recorded seeds."""
        n, spread = len(self.means), statistics.stdev(self.means)
        half = quantile(CONFIDENCE, n - 1) * spread * math.sqrt(1 + 1 / n)
        return statistics.mean(self.means) - half, statistics.mean(self.means) + half


Rows = Mapping[str, Row]


class Beside(Protocol):
    """Rows of a table that another trainer gives, tuned as the methods are."""

    trainings: int
    """That all its rows take together."""

    def rows(self, data: Path, seeds: Sequence[int], kept: Path) -> dict[str, Row]:
        """Tune on the first seed, then run the others with what validation preferred."""
        ...

    def again(self, data: Path, rows: Rows, kept: Path) -> dict[str, Found]:
        """Run the first seed of its rows once more, as they were tuned."""
        ...


class Contest:
    """One table.

    Args:
        name: of the record and of the results kept.
        base: keys of a MamdrConfig that all methods share.
        methods: the rows that are trained here.
        aims: pairs of rows of which the first should be better.
        best: the row that should be better than every other; none where empty.
        again: names of the rows whose seed 0 is run again, the most important first; None is all that are trained here.
        again_minutes: of one core, that these may take by the record; what does not fit any more is left out, and told.
        core_hours: of FULL=1, a guess, told until there is a record to tell it by.
        beside: rows of another trainer.
        records: where the record lies.
    """

    def __init__(
        self,
        name: str,
        base: Mapping[str, Any],
        methods: Sequence[Method],
        aims: Sequence[tuple[str, str]] = (),
        best: str = "",
        again: Sequence[str] | None = None,
        again_minutes: float = math.inf,
        core_hours: float = math.nan,
        beside: Beside | None = None,
        records: Path = RECORDS,
    ) -> None:
        self.name = name
        self._base = dict(base)
        self._methods = tuple(methods)
        self._aims = tuple(aims)
        self._best = best
        self._priority = [method.name for method in methods] if again is None else list(again)
        self._again_minutes = again_minutes
        self._core_hours = core_hours
        self._beside = beside
        self._record = records / f"{name}.json"

    def lines(self, work: Workplace, data: Path) -> Iterator[Line]:
        """The lines of the table and its aims, then seed 0 again."""
        if not work.reuse:
            shutil.rmtree(self._kept(work), ignore_errors=True)
        if work.quick:
            yield from self.table(self._run(self._kept(work), data, SEEDS[:2], {"epochs": 1}, 1))
            return
        if full():
            with sittings(self.name, self._record.parent) as kept:
                self._write(self._run(kept, data, SEEDS, {}, MOST_CONFIGURATIONS))
        rows = self.rows()
        if rows is None:
            yield from self._missing()
            return
        yield measured(f"{self.name}: recorded", self.origin())
        yield from self.table(rows)
        yield from self.aims(rows)
        if not full():
            yield from self._again(work, data, rows)

    def rows(self) -> dict[str, Row] | None:
        """The record; None where there is none yet."""
        if not self._record.exists():
            return None
        methods = self._content()["methods"]
        return {name: Row(row["config"], tuple(row["seeds"])) for name, row in methods.items()}

    def origin(self) -> str:
        """When the record was made, and of which code its trainings are."""
        return dated(self._content())

    def table(self, rows: Rows) -> Iterator[Line]:
        """A line a method: mean and standard deviation over seeds, and RANK (methods.md 5)."""
        ranks = rank(rows)
        for name, row in rows.items():
            spread = statistics.stdev(row.means) if len(row.means) > 1 else 0.0
            pooled = statistics.mean(found["pooled"] for found in row.seeds)
            figure = f"{statistics.mean(row.means):.4f} ± {spread:.4f}, pooled {pooled:.4f}, RANK {ranks[name]:.2f}"
            yield measured(f"{self.name}: {name}, mean per-domain test AUC, {len(row.means)} seeds", figure)

    def aims(self, rows: Rows) -> Iterator[Line]:
        """What the papers say of the order."""
        for better, worse in self._aims:
            known = better in rows and worse in rows
            yield aim(self.name, rows, better, worse) if known else self._unknown(f"{better} - {worse}")
        if self._best in rows:
            others = [other for other in rows if other != self._best]
            yield aim(self.name, rows, self._best, max(others, key=lambda other: sum(rows[other].means)))

    def run_again(self, rows: Rows) -> list[str]:
        """Names of the rows whose seed 0 is run again: in order, each that fits into what is left of the time."""
        left, chosen = self._again_minutes * 60, []
        for name in filter(rows.__contains__, self._priority):
            seconds = float(rows[name].seeds[0]["seconds"])
            if seconds <= left:
                chosen.append(name)
                left -= seconds
        return chosen

    def bill(self) -> tuple[float, str]:
        """Core hours of FULL=1, and how they are known."""
        rows = self.rows()
        if rows is None:
            return self._core_hours, "a guess"
        grids = {method.name: len(method.grid) for method in self._methods}
        # of rows of another trainer one stands for all: they come out of the same trainings
        counts = {name: grids[name] + len(SEEDS) - 1 if name in grids else 0 for name in rows}
        beside = [name for name in rows if name not in grids][:1]
        counts |= dict.fromkeys(beside, 0 if self._beside is None else self._beside.trainings)
        seconds = {name: statistics.mean(found["seconds"] for found in row.seeds) for name, row in rows.items()}
        return sum(counts[name] * seconds[name] for name in rows) / 3600, "by the last record"

    def _missing(self) -> Iterator[Line]:
        names = [f"{better} - {worse}" for better, worse in self._aims]
        names += [f"{self._best} - the best other"] if self._best else []
        yield from map(self._unknown, names or ["the table"])

    def _unknown(self, what: str) -> Line:
        return Line(f"{self.name}: {what}, mean per-domain AUC", NOT_RECORDED, "> 0", "falls short")

    def _kept(self, work: Workplace) -> Path:
        return work.folder / f"contest-{self.name}"

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._record.read_text())
        return content

    def _run(
        self, kept: Path, data: Path, seeds: Sequence[int], changes: Mapping[str, Any], most: int
    ) -> dict[str, Row]:
        """Tune every method on the first seed, then run the others with what it preferred."""
        content = folder_digest(data)
        grids = {m.name: [{**self._base, **config, **changes} for config in m.grid[:most]] for m in self._methods}
        tuning = {n: [Trial.of(data, config, seeds[0], content) for config in grid] for n, grid in grids.items()}
        found = run_all(longest_first([trial for trials in tuning.values() for trial in trials]), kept)
        best = {name: max(trials, key=lambda trial: validation(found[trial])) for name, trials in tuning.items()}
        # seed by seed: a process keeps the rows of the last seed, and a sitting that ends early leaves whole pairs
        more = {(n, seed): Trial(one.data, one.config, seed, content) for seed in seeds[1:] for n, one in best.items()}
        by_seed = ([trial for (_, seed), trial in more.items() if seed == wanted] for wanted in seeds[1:])
        found |= run_all([trial for trials in by_seed for trial in longest_first(trials)], kept)
        rows = {
            name: Row(json.loads(one.config), (found[one], *(found[more[name, seed]] for seed in seeds[1:])))
            for name, one in best.items()
        }
        return rows if self._beside is None else rows | self._beside.rows(data, seeds, kept)

    def _again(self, work: Workplace, data: Path, rows: Rows) -> Iterator[Line]:
        chosen, content = self.run_again(rows), folder_digest(data)
        own = {method.name for method in self._methods}
        trials = {name: Trial.of(data, rows[name].config, SEEDS[0], content) for name in chosen if name in own}
        trained = run_all(longest_first(list(trials.values())), self._kept(work))
        found = {name: trained[trial] for name, trial in trials.items()}
        others = {name: rows[name] for name in chosen if name not in own}
        if others and self._beside is not None:
            found |= self._beside.again(data, others, self._kept(work))
        for name in chosen:
            low, high = rows[name].interval()
            claim = f"{self.name}: {name}, seed 0 again, in the recorded 95% interval of a seed"
            yield between(claim, found[name]["test"], round(low, 4), round(high, 4), digits=4)
        if left := [name for name in rows if name not in chosen]:
            yield measured(f"{self.name}: rows whose seed 0 is not run again", ", ".join(left))

    def _write(self, rows: Rows) -> None:
        content = {
            **origin(found["code"] for row in rows.values() for found in row.seeds if "code" in found),
            "methods": {name: {"config": row.config, "seeds": list(row.seeds)} for name, row in rows.items()},
        }
        write_record(self._record, content)


def longest_first(trials: Sequence[Trial]) -> list[Trial]:
    """Put what takes longest first, by a rough reckoning, so that no core ends long after the others."""
    return sorted(trials, key=lambda trial: -passes(json.loads(trial.config)))


def passes(config: Mapping[str, Any]) -> float:
    """About how many plain passes over the rows an epoch costs: of Domain Regularization 1 + 2k, else by the table."""
    if config.get("framework") in ("dr", "mamdr"):
        return 1.0 + 2.0 * float(config.get("regularization", {}).get("others", 3))
    return _PASSES.get(config.get("structure", config.get("framework", "")), 1.0)


def validation(found: Found) -> float:
    """What configurations are chosen by; one that has no AUC is never preferred."""
    value = found["validation"]
    return -math.inf if value is None else float(value)


def rank(rows: Rows) -> dict[str, float]:
    """Mean rank of each method over domains and seeds; 1 is best, equal ones share. Source: methods.md 5."""
    names = list(rows)
    places: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(len(rows[names[0]].seeds)):
        each = {name: rows[name].seeds[seed]["domains"] for name in names}
        for domain in each[names[0]]:
            values = {name: each[name][domain] for name in names}
            if any(value is None for value in values.values()):
                continue
            for name, value in values.items():
                above = sum(other > value for other in values.values())
                equal = sum(other == value for other in values.values())
                places[name].append(above + (equal + 1) / 2)
    return {name: statistics.mean(found) if found else math.nan for name, found in places.items()}


def aim(contest: str, rows: Rows, better: str, worse: str) -> Line:
    """Whether one method is better than another, in the mean of the seeds; with the paired 95% interval.

    Where the interval holds 0, the seeds cannot tell the two apart, whatever the verdict; the figure says so.
    """
    found = paired(rows[better].means, rows[worse].means)
    interval = "" if found.low is None or found.high is None else f" [{found.low:+.4f}, {found.high:+.4f}]"
    if found.low is not None and found.high is not None and found.low <= 0 <= found.high:
        interval += ", not told apart"
    claim = f"{contest}: {better} - {worse}, mean per-domain AUC, paired 95% over {found.seeds} seeds"
    return Line(claim, f"{found.mean:+.4f}{interval}", "> 0", "holds" if found.mean > 0 else "falls short")
