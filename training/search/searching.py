"""`espalier train search`, top to bottom: what is searched, its cost, trial after trial, and what was found."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters_store.canonical import canonical_json, digest
from network.errors import NetworkError
from training.checkpoint import StateFolder
from training.dataset import split_of
from training.errors import ConfigError
from training.prepared import prepared_in
from training.progress import Advance, Meter, SilentMeter
from training.search.errors import NothingJudged, OptunaMissing
from training.search.found import Budget, Searched, Told, best_of
from training.search.judging import NOTHING, Judged, ground, lay
from training.search.methods import Method, methods_of, started
from training.search.space import Point, Space, completed, corners, placed, shown
from training.search.writing import write_found
from training.seeds import Stream
from training.stages import folder_digest, refuse_existing
from training.trials.trial import Config

if TYPE_CHECKING:
    from training.search.journal import Journal

_UNDECISIVE = {"data", "rows", "sinks", "bootstrap_draws"}
"""Keys that no trial depends on; the data counts by its content."""
_GROUND = "ground"
_DIGEST_DIGITS = 8


@dataclass(frozen=True)
class Data:
    """What every trial reads.

    Args:
        digest: of the prepared folder's content.
        rows: training rows.
        divisions: how many there are.
    """

    digest: str
    rows: int
    divisions: int

    @classmethod
    def of(cls, config: Config) -> Data:
        """Read a configuration's prepared data.

        Raises:
            ConfigError: it names none.
            PreparedError: the folder holds none.
        """
        if config.data is None:
            raise ConfigError("no data: set `data` in the configuration, or give --data DIR")
        prepared = prepared_in(config.rows, config.data)
        rows = len(split_of(prepared, config.seed).train)
        return cls(folder_digest(config.data), rows, len(prepared.spec.divisions))


class Search:
    """Searches the settings of one method.

    Args:
        method: what is searched.
        config: that every trial is a change of.
        space: by key.
        out: the search's own folder.
        data: what every trial reads.
        budget: when it ends.
        meter: where progress goes.
        commit: of the code, kept with each trial.
        clock: seconds.

    Raises:
        ConfigError: the space does not fit the method or the configuration.
    """

    def __init__(
        self,
        method: Method,
        config: Config,
        space: Space,
        out: Path,
        data: Data,
        budget: Budget,
        meter: Meter,
        commit: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        method.check(space)
        self._method = method
        self._config = config
        self._space, self._given = completed(space, config)
        passes = max(method.passes(each, data.divisions) for each in corners(config, self._space))
        self._rows_of_trial = passes * data.rows
        self._out = out
        self._data = data
        self._budget = budget
        self._meter = meter
        self._commit = commit
        self._clock = clock

    def cost(self) -> str:
        """Say what the search may cost, as far as it is known before a trial is timed."""
        name, trials, rows = self._method.name, self._budget.trials, self._rows_of_trial
        hours = "" if self._budget.hours is None else f"; none begins after {self._budget.hours:g} hours of trials"
        first = f"; before them {' and '.join(self._method.ground)} once" if self._method.ground else ""
        return (
            f"search {name}: {trials} trials{hours}, each of at most {rows:,} rows passed, {trials * rows:,} in all"
            f"{first}. Keys: {', '.join(self._space)}"
        )

    def run(self) -> Searched:
        """Run trials until the budget is spent, from where an earlier sitting ended.

        Raises:
            NothingJudged: the configuration as given has no validation AUC.
            StateMismatch: the folder holds a search with other settings.
            TrainingError: as training does; finished trials are kept.
        """
        self._out.mkdir(parents=True, exist_ok=True)
        journal = self._opened()
        told = journal.told()
        if not self._budget.spent(told):
            self._prepare(told)
        while not self._budget.spent(told):
            told.append(self._trial(journal, len(told)))
            self._meter.say(self._line(told))
        config = placed(self._config, self._space, best_of(told).point)
        return Searched(self._method.name, config, self._space, tuple(told), journal.importance())

    def _opened(self) -> Journal:
        try:
            from training.search.journal import Journal
        except ModuleNotFoundError as error:
            if error.name != "optuna":
                raise
            raise OptunaMissing("a search needs optuna: pip install 'espalier[train]'") from None
        stream = Stream(self._config.seed, ("search", self._method.name))
        return Journal(self._out / "journal.log", self._method.name, self._space, stream, self._identity())

    def _identity(self) -> dict[str, Any]:
        settings = self._config.model_dump(mode="json", exclude=_UNDECISIVE)
        space = {key: parameter.model_dump(mode="json") for key, parameter in self._space.items()}
        return {"data": self._data.digest, "config": settings, "space": space}

    def _prepare(self, told: Sequence[Told]) -> None:
        """Train what every trial stands on, or find it finished."""
        if told:
            self._meter.say(self._left(told))
        if self._method.ground:
            began = self._clock()
            ground(self._method.ground, self._config, self._out / _GROUND, _Bars(self._meter))
            spent = self._clock() - began
            self._meter.say(f"{' and '.join(self._method.ground)}, for all trials: {spent:.1f} s")

    def _trial(self, journal: Journal, number: int) -> Told:
        """Train and judge one configuration, and write it down; the state of one that was killed is gone on with."""
        point = journal.draw() if number else self._given
        folder = self._out / "trials" / f"{number:04d}-{digest(canonical_json(point))[:_DIGEST_DIGITS]}"
        if self._method.ground:
            lay(self._out / _GROUND, folder)
        began = self._clock()
        judged = self._judged(point, folder, number)
        if number == 0 and judged.auc is None:
            raise NothingJudged(
                f"{self._method.name} as given has no validation AUC: its `stop` rows have one class only, or what it "
                "learns is not finite"
            )
        found = journal.tell(point, judged, self._clock() - began, self._commit)
        shutil.rmtree(folder, ignore_errors=True)
        return found

    def _judged(self, point: Point, folder: Path, number: int) -> Judged:
        """What a point is worth; one that was drawn and cannot be built is worth nothing."""
        try:
            config = placed(self._config, self._space, point)
            return self._method.judge(config, folder, _Bars(self._meter))
        except (ConfigError, NetworkError) as error:
            if number == 0:
                raise
            self._meter.say(f"{self._method.name} trial {number} cannot be trained: {error}")
            return NOTHING

    def _line(self, told: Sequence[Told]) -> str:
        last, best = told[-1], best_of(told)
        auc, log_loss = last.judged.auc, last.judged.log_loss
        worth = "no AUC" if auc is None else f"AUC {auc:.5f}, LogLoss {log_loss:.5f}"
        ahead = "" if self._budget.spent(told) else f"; {self._left(told)}"
        return (
            f"{self._method.name} trial {last.number} ({shown(last.point)}): {worth}, {last.seconds:.1f} s; "
            f"best is {best.number} with {best.judged.auc:.5f}{ahead}"
        )

    def _left(self, told: Sequence[Told]) -> str:
        each = statistics.fmean(one.seconds for one in told)
        seconds = each * (self._budget.trials - len(told))
        if self._budget.hours is not None:
            seconds = min(seconds, 3600 * self._budget.hours - sum(one.seconds for one in told) + each)
        about = f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 3600:.2f} hours"
        return f"{self._budget.trials - len(told)} trials are left, about {about}"


class _Bars:
    """A meter that shows progress and keeps a trial's own lines to itself."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def watch(self, name: str, rows: int) -> AbstractContextManager[Advance]:
        """Show one piece of work."""
        return self._meter.watch(name, rows)

    def say(self, line: str) -> None:
        """Say nothing."""


def search(
    config: Config,
    names: Sequence[str],
    out: Path,
    budget: Budget,
    *,
    spaces: Mapping[str, Space] | None = None,
    resume: bool = False,
    meter: Meter | None = None,
    commit: str = "",
) -> list[Searched]:
    """Search the settings of several methods, one after another, each within the same budget.

    A stage begins with what was found for the stages before it; baselines and frameworks each with what was given.

    Args:
        config: that is searched from, with `data` set.
        names: of methods (`training.search.methods`); none stands for the three stages, or for the framework.
        out: gets search.md and search.json, and for each method a folder with its journal and its config.yaml.
        budget: of each method.
        spaces: those that replace the usual ones, by method.
        resume: go on where a search in `out` stopped.
        meter: where progress goes; nowhere by default.
        commit: of the code.

    Returns:
        What was found for each method, in the order in which they were searched.

    Raises:
        ConfigError: there is no such method, or a space does not fit.
        RunExists: `out` is not empty and `resume` is not set, or another process is at work there.
        TrainingError: as training does; finished trials are kept.
    """
    methods = methods_of(config, names)
    own = _spaces(methods, spaces or {})
    refuse_existing(out, "all", resume)
    data, meter = Data.of(config), meter or SilentMeter()

    def opened(method: Method, config: Config) -> Search:
        begun = started(method, config)
        return Search(method, begun, own[method.name], out / method.name, data, budget, meter, commit)

    found: list[Searched] = []
    for line in [opened(method, config).cost() for method in methods]:  # and every space is checked before any trial
        meter.say(line)
    with StateFolder(out / "state").locked():
        for method in methods:
            found.append(opened(method, config).run())
            if method.carried:
                config = found[-1].config
            write_found(out, found, budget)  # after each: a kill over the next one leaves what is known
    return found


def _spaces(methods: Sequence[Method], spaces: Mapping[str, Space]) -> dict[str, Space]:
    """The space of each method that is searched."""
    usual = {method.name: method.space for method in methods}
    for name in spaces:
        if name not in usual:
            raise ConfigError(f"there is a space for {name}, which is not searched here: {', '.join(usual)} are")
    return {**usual, **spaces}
