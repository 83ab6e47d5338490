"""A table of methods on one data set: each tuned on seed 0, then five seeds; recorded, and checked again by seed 0.

FULL=1 tunes, runs every seed and writes the record. Otherwise seed 0 is run again with the recorded configurations and
must lie in the interval of the recorded seeds; the table and the aims are those of the record, and say so.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.claims.line import Line, between, measured
from benchmarks.claims.mamdr_trial import Found, Trial, run_all
from benchmarks.claims.workplace import ROOT, ClaimError, Workplace
from training.trials.student import CONFIDENCE, paired, quantile

SEEDS = (0, 1, 2, 3, 4)
RECORDS = ROOT / "benchmarks" / "claims" / "records"
MOST_CONFIGURATIONS = 4


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


class Contest:
    """One table.

    Args:
        name: of the record and of the results kept.
        base: keys of a MamdrConfig that all methods share.
        methods: the rows that are trained here.
        beside: rows of other commands: what one seed gave, by the row's name. They are not run again.
        again: names of the rows whose seed 0 is run again; None is all that are trained here.
        core_hours: of FULL=1, estimated from single epochs; told until there is a record to tell it by.
    """

    def __init__(
        self,
        name: str,
        base: Mapping[str, Any],
        methods: Sequence[Method],
        beside: Callable[[int], Mapping[str, Found]] | None = None,
        again: Sequence[str] | None = None,
        core_hours: float | None = None,
    ) -> None:
        self.name = name
        self._base = dict(base)
        self._methods = tuple(methods)
        self._beside = beside or (lambda seed: {})
        self._chosen = [method.name for method in methods] if again is None else list(again)
        self._core_hours = core_hours

    def lines(self, work: Workplace, data: Path) -> Iterator[Line]:
        """The lines of the table, then seed 0 again; the aims are the group's own."""
        if not work.reuse:
            shutil.rmtree(self._kept(work), ignore_errors=True)
        if work.quick:
            rows = self._run(work, data, SEEDS[:2], {"epochs": 1}, 1)
            yield from self.table(rows)
            return
        if os.environ.get("FULL") == "1":
            self._tell_cost()
            self._write(self._run(work, data, SEEDS, {}, MOST_CONFIGURATIONS))
        rows = self.rows()
        yield from self.table(rows)
        if os.environ.get("FULL") != "1":
            yield from self._again(work, data, rows)

    def rows(self) -> dict[str, Row]:
        """The record.

        Raises:
            ClaimError: there is none yet.
        """
        if not self._record.exists():
            raise ClaimError(f"{self._record.relative_to(ROOT)} is not there: FULL=1 makes it")
        content = json.loads(self._record.read_text())
        return {name: Row(row["config"], tuple(row["seeds"])) for name, row in content["methods"].items()}

    def table(self, rows: Mapping[str, Row]) -> Iterator[Line]:
        """A line a method: mean and standard deviation over seeds, and RANK (methods.md 5)."""
        ranks = rank(rows)
        for name, row in rows.items():
            spread = statistics.stdev(row.means) if len(row.means) > 1 else 0.0
            pooled = statistics.mean(found["pooled"] for found in row.seeds)
            figure = f"{statistics.mean(row.means):.4f} ± {spread:.4f}, pooled {pooled:.4f}, RANK {ranks[name]:.2f}"
            yield measured(f"{self.name}: {name}, mean per-domain test AUC, {len(row.means)} seeds", figure)

    def _kept(self, work: Workplace) -> Path:
        return work.folder / f"contest-{self.name}"

    @property
    def _record(self) -> Path:
        return RECORDS / f"{self.name}.json"

    def _run(
        self, work: Workplace, data: Path, seeds: Sequence[int], changes: Mapping[str, Any], most: int
    ) -> dict[str, Row]:
        """Tune every method on the first seed, then run the others with what it preferred."""
        kept = self._kept(work)
        grids = {m.name: [{**self._base, **config, **changes} for config in m.grid[:most]] for m in self._methods}
        tuning = {name: [Trial.of(data, config, seeds[0]) for config in grid] for name, grid in grids.items()}
        found = run_all([trial for trials in tuning.values() for trial in trials], kept)
        best = {name: max(trials, key=lambda trial: found[trial]["validation"]) for name, trials in tuning.items()}
        more = {name: [Trial(one.data, one.config, seed) for seed in seeds[1:]] for name, one in best.items()}
        found |= run_all([trial for trials in more.values() for trial in trials], kept)
        rows = {
            name: Row(json.loads(best[name].config), tuple(found[trial] for trial in (best[name], *more[name])))
            for name in best
        }
        others = [self._beside(seed) for seed in seeds]
        return rows | {name: Row({}, tuple(each[name] for each in others)) for name in others[0]}

    def _again(self, work: Workplace, data: Path, rows: Mapping[str, Row]) -> Iterator[Line]:
        trials = {name: Trial.of(data, rows[name].config, SEEDS[0]) for name in self._chosen}
        found = run_all(list(trials.values()), self._kept(work))
        for name, trial in trials.items():
            low, high = rows[name].interval()
            claim = f"{self.name}: {name}, seed 0 again, in the recorded 95% interval of a seed"
            yield between(claim, found[trial]["test"], round(low, 4), round(high, 4), digits=4)

    def _tell_cost(self) -> None:
        trials = sum(len(method.grid) + len(SEEDS) - 1 for method in self._methods)
        guess = self._core_hours
        known = "its seconds are not known yet" if guess is None else f"about {guess:.1f} core hours, by single epochs"
        if self._record.exists():
            rows = self.rows()
            grid = {method.name: len(method.grid) for method in self._methods}
            hours = (
                sum(
                    statistics.mean(found["seconds"] for found in row.seeds) * (grid.get(name, 1) + len(SEEDS) - 1)
                    for name, row in rows.items()
                )
                / 3600
            )
            known = f"about {hours:.1f} core hours, by the last record"
        print(f"# {self.name}: {trials} trainings; {known}", flush=True)

    def _write(self, rows: Mapping[str, Row]) -> None:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
        ).stdout
        content = {
            "commit": commit.strip(),
            "date": time.strftime("%Y-%m-%d"),
            "methods": {name: {"config": row.config, "seeds": list(row.seeds)} for name, row in rows.items()},
        }
        self._record.parent.mkdir(parents=True, exist_ok=True)
        self._record.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def rank(rows: Mapping[str, Row]) -> dict[str, float]:
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


def aim(contest: str, rows: Mapping[str, Row], better: str, worse: str) -> Line:
    """Whether one method is better than another, in the mean of the seeds; with the paired 95% interval."""
    found = paired(rows[better].means, rows[worse].means)
    interval = "" if found.low is None or found.high is None else f" [{found.low:+.4f}, {found.high:+.4f}]"
    claim = f"{contest}: {better} - {worse}, mean per-domain AUC, paired 95% over {found.seeds} seeds"
    return Line(claim, f"{found.mean:+.4f}{interval}", "> 0", "holds" if found.mean > 0 else "falls short")
