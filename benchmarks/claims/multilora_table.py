"""A table of methods on one data set: each tuned on seed 0's validation, then five seeds; recorded, and checked again.

FULL=1 says what it costs, tunes, runs every seed and writes the record. Otherwise the rows and aims are those of the
record, and seed 0 is run again with the recorded configurations: it must lie in the interval of the recorded seeds.
Without a record every line that needs one says so and falls short.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.claims.line import Line, Verdict, between, measured
from benchmarks.claims.mamdr_contest import MOST_CONFIGURATIONS, SEEDS, Row
from benchmarks.claims.multilora_trial import STAGES, Kind, Training, run_all
from benchmarks.claims.trainings import RECORDS, dated, fresh, origin, sittings, write_record
from benchmarks.claims.workplace import ClaimError, Workplace
from training.trials import student
from training.trials.kept import Found

NOT_RECORDED = "not recorded yet: FULL=1"
Figure = Literal["pooled", "macro"]
Rows = Mapping[str, Row]
RunAll = Callable[[Sequence[Training], Path], Mapping[Training, Found]]


def full() -> bool:
    """Whether everything is to be run."""
    return os.environ.get("FULL") == "1"


@dataclass(frozen=True)
class Family:
    """Methods that come out of one kind of training.

    Args:
        kind: of the training.
        grid: configurations to tune over; at most four.
        prefix: of its methods' names in the table, such as `deepfm `.
        methods: those that stand in the table; all by default.
        start: method of an earlier family whose chosen keys this one's stage 1 has; its own grid's where None.
    """

    kind: Kind
    grid: tuple[Mapping[str, Any], ...]
    prefix: str = ""
    methods: tuple[str, ...] | None = None
    start: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.grid) <= MOST_CONFIGURATIONS:
            raise ValueError(f"{self.prefix}{self.kind} has {len(self.grid)} configurations; 1 to 4 are tuned over")

    @property
    def names(self) -> dict[str, str]:
        """Name in the table to the name among what a training gives."""
        given = tuple(STAGES) if self.kind == "stages" else (self.kind,)
        return {f"{self.prefix}{name}": name for name in self.methods or given}


class Table:
    """One table.

    Args:
        name: of the record and of the results kept.
        base: keys of a TrainingConfig that all methods share.
        families: what is trained, in this order.
        figure: that rows are compared by: pooled test AUC, or its mean over domains.
        again: names of rows whose seed 0 is run again, and with them all rows of the same trainings.
        core_hours: of FULL=1, a guess, told until there is a record to tell it by.
        published: pooled AUC that a paper prints, by the row's name.
        trained: runs trainings and keeps their results in a folder.
    """

    def __init__(
        self,
        name: str,
        base: Mapping[str, Any],
        families: Sequence[Family],
        figure: Figure,
        again: Sequence[str],
        core_hours: float,
        published: Mapping[str, float] | None = None,
        trained: RunAll = run_all,
    ) -> None:
        self.name = name
        self.figure: Figure = figure
        self._base = dict(base)
        self._families = tuple(families)
        self._again = tuple(again)
        self._core_hours = core_hours
        self._published = published or {}
        self._trained = trained

    @property
    def methods(self) -> list[str]:
        """Names of the rows."""
        return [name for family in self._families for name in family.names]

    def tried(self, work: Workplace, data: Path, changes: Mapping[str, Any]) -> Rows:
        """Run two seeds of the first configurations with some keys replaced, and keep no record: shows that it runs."""
        return self._run(self._kept(work), data, SEEDS[:2], changes, 1)

    def brought(self, work: Workplace, data: Path) -> Rows | None:
        """The record, written first where everything is to be run; None where there is none.

        Raises:
            ClaimError: it is of another table than this one.
        """
        if full():
            self._tell_cost()
            with sittings(self.name) as kept:
                self._write(self._run(kept, data, SEEDS, {}, MOST_CONFIGURATIONS))
        rows = self.rows()
        if rows is not None:
            self.check(rows)
        return rows

    def check(self, rows: Rows) -> None:
        """Refuse rows that were trained by other configurations than this table tunes over now.

        Raises:
            ClaimError: they were, or are of other methods.
        """
        stale = set(rows) ^ set(self.methods)
        for family in self._families if not stale else ():
            grid = json.loads(json.dumps(self._grid(family, rows)))
            stale |= {name for name in family.names if rows[name].config not in grid}
        if stale:
            what = ", ".join(sorted(stale))
            raise ClaimError(f"the record of {self.name} is of another table ({what}): FULL=1 makes it anew")

    def dated(self) -> Iterator[Line]:
        """When, and by which code, the record was made that the lines below tell of."""
        if self._record.exists():
            yield measured(f"{self.name}: the table was recorded", dated(json.loads(self._record.read_text())))

    def rows(self) -> Rows | None:
        """The record, or None."""
        if not self._record.exists():
            return None
        content = json.loads(self._record.read_text())
        return {name: Row(row["config"], tuple(row["seeds"])) for name, row in content["methods"].items()}

    def lines(self, rows: Rows) -> Iterator[Line]:
        """A line a method: mean and standard deviation over seeds."""
        for name, row in rows.items():
            pooled, macro, loss = (_mean(row, what) for what in ("pooled", "macro", "log_loss"))
            spread = statistics.stdev(row.means) if len(row.means) > 1 else 0.0
            figure = f"pooled {pooled:.4f}, macro {macro:.4f}, LogLoss {loss:.4f}; {self.figure} ± {spread:.4f}"
            if name in self._published:
                figure += f"; published pooled {self._published[name]:.4f}"
            yield measured(f"{self.name}: {name}, test AUC, {len(row.means)} seeds", figure)

    def again(self, work: Workplace, data: Path, rows: Rows) -> Iterator[Line]:
        """Seed 0 once more, each configuration trained once; all rows that these trainings give are looked at."""
        if full():
            return
        each = {name: self._training(name, rows, data) for name in rows}
        found = self._trained(list(dict.fromkeys(each[name] for name in self._again)), self._kept(work))
        for name, training in each.items():
            if training not in found:
                continue
            low, high = rows[name].interval()
            claim = f"{self.name}: {name}, seed 0 again, {self.figure}, in the recorded 95% interval of a seed"
            value = found[training][self._inner(name)][self.figure]
            yield between(claim, value, round(low, 4), round(high, 4), digits=4)

    def missing(self, claims: Sequence[tuple[str, str]]) -> Iterator[Line]:
        """Lines of claims and bounds that nothing is known of."""
        for claim, bound in claims:
            yield Line(f"{self.name}: {claim}", NOT_RECORDED, bound, "falls short")

    def _kept(self, work: Workplace) -> Path:
        return fresh(work, f"table-{self.name}")

    @property
    def _record(self) -> Path:
        return RECORDS / f"{self.name}.json"

    def _inner(self, name: str) -> str:
        return next(family.names[name] for family in self._families if name in family.names)

    def _training(self, name: str, rows: Rows, data: Path) -> Training:
        kind = next(family.kind for family in self._families if name in family.names)
        return Training.of(data, kind, rows[name].config, SEEDS[0])

    def _run(
        self, kept: Path, data: Path, seeds: Sequence[int], changes: Mapping[str, Any], most: int
    ) -> dict[str, Row]:
        """Tune every family on the first seed, then run the other seeds with what each method preferred."""
        rows: dict[str, Row] = {}
        for family in self._families:
            grid = [merged(config, changes) for config in self._grid(family, rows)[:most]]
            tuning = [Training.of(data, family.kind, config, seeds[0]) for config in grid]
            found = dict(self._trained(tuning, kept))
            best = {name: _best(tuning, found, inner) for name, inner in family.names.items()}
            more = {
                (one, seed): Training(one.data, one.kind, one.config, seed) for one in best.values() for seed in seeds
            }
            found |= self._trained(list(dict.fromkeys(more.values())), kept)
            for name, inner in family.names.items():
                each = [found[more[best[name], seed]][inner] for seed in seeds]
                rows[name] = Row(json.loads(best[name].config), tuple(self._seed(one) for one in each))
        return rows

    def _grid(self, family: Family, rows: Rows) -> list[dict[str, Any]]:
        """What a family is tuned over, by the rows that stand already."""
        start = {} if family.start is None else rows[family.start].config
        return [merged({**self._base, **start}, config) for config in family.grid]

    def _seed(self, found: Found) -> Found:
        """A seed's figures, the one that rows are compared by as `test`."""
        return {"test": found[self.figure], **found}

    def _tell_cost(self) -> None:
        counts = [len(family.grid) + (len(SEEDS) - 1) * len(family.names) for family in self._families]
        known = f"about {self._core_hours:.1f} core hours, a guess"
        rows = self.rows() or {}
        firsts = [next(iter(family.names)) for family in self._families]
        if set(firsts) <= set(rows):
            spent = sum(count * _mean(rows[name], "seconds") for count, name in zip(counts, firsts, strict=True))
            known = f"at most {spent / 3600:.1f} core hours, by the last record"
        print(f"# {self.name}: at most {sum(counts)} trainings; {known}", flush=True)

    def _write(self, rows: Rows) -> None:
        code = {found["code"] for row in rows.values() for found in row.seeds}
        methods = {name: {"config": row.config, "seeds": list(row.seeds)} for name, row in rows.items()}
        write_record(self._record, {**origin(code), "figure": self.figure, "methods": methods})


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration keys with some replaced; sections are merged key by key."""
    found = dict(base)
    for key, value in changes.items():
        old = found.get(key)
        found[key] = {**old, **value} if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found


def reaches(name: str, row: Row, bound: float) -> Line:
    """Whether the mean over seeds reaches a number."""
    value = statistics.mean(row.means)
    verdict: Verdict = "holds" if value >= bound else "falls short"
    return Line(f"{name}, mean of {len(row.means)} seeds", f"{value:.4f}", f">= {bound:.4f}", verdict)


def gains(claim: str, better: Row, worse: Row, least: float) -> Line:
    """Whether one method is above another by so much, and p < 0.05 in a paired t-test over seeds.

    p < 0.05 says the same as a paired 95% interval that lies above 0.
    """
    mean, half = paired(better, worse)
    figure = f"{mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}]"
    verdict: Verdict = "holds" if mean >= least and mean - half > 0 else "falls short"
    return Line(f"{claim}, paired over {len(better.means)} seeds", figure, f">= {least:g} with p < 0.05", verdict)


def not_below(claim: str, ours: Sequence[float | None], theirs: Sequence[float | None], margin: float) -> Line:
    """Whether domains are worth as much as by others: the data must show that they lose no more than a margin.

    Args:
        claim: what is compared.
        ours: validation AUC of each domain; None where it has none.
        theirs: of the same domains, in the same order.
        margin: of AUC.
    """
    pairs = [(own, other) for own, other in zip(ours, theirs, strict=True) if own is not None and other is not None]
    bound = f"lower end of the paired 95% interval >= -{margin:g}"
    if len(pairs) < 2:
        return Line(claim, f"{len(pairs)} domains have an AUC of both", bound, "falls short")
    found = student.paired([own for own, _ in pairs], [other for _, other in pairs])
    low, high = (-math.inf if found.low is None else found.low), (math.inf if found.high is None else found.high)
    figure = f"{found.mean:+.4f} [{low:+.4f}, {high:+.4f}] over {len(pairs)} domains"
    return Line(claim, figure, bound, "holds" if low >= -margin else "falls short")


def paired(one: Row, other: Row) -> tuple[float, float]:
    """Mean difference over seeds, and half the width of its 95% interval; no width is known of a single seed."""
    found = student.paired(one.means, other.means)
    return found.mean, math.inf if found.high is None else found.high - found.mean


def _best(trainings: Sequence[Training], found: Mapping[Training, Mapping[str, Found]], method: str) -> Training:
    """The training whose validation the method prefers; one where it is not defined is never preferred."""

    def validation(training: Training) -> float:
        value = found[training][method]["validation"]
        return -math.inf if value is None else float(value)

    return max(trainings, key=validation)


def _mean(row: Row, what: str) -> float:
    values = [found[what] for found in row.seeds if found[what] is not None]
    return statistics.mean(values) if values else math.nan
