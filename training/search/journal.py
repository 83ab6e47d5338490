"""The trials of one search on disk, and what is tried next: the one file that imports optuna.

A trial is written when it is finished, as one line of optuna's journal, so a kill leaves no trial that is half there:
what ran is drawn again and counted once. A draw depends on the search's seed, on the number of the trial and on the
finished trials alone, so a search that was killed draws what one that was not would have drawn.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from adapters_store.durable import write_durably
from training.checkpoint import Record, differences
from training.errors import StateMismatch
from training.search.errors import JournalBroken
from training.search.found import Told
from training.search.judging import Judged
from training.search.space import Parameter, Point, Range, Times, Value
from training.seeds import Stream

RANDOM_TRIALS = 8
"""Trials that are drawn evenly before the sampler follows what they showed; the configuration as given is one."""
FOR_IMPORTANCE = 20
"""Trials that importances need: they compare the best tenth with all."""
_DIGITS = 4
_SEEDS = 2**32
_IDENTITY = "identity"


class Journal:
    """The finished trials of one search.

    Args:
        path: of the file, made if it is not there; no other process may write it.
        name: of what is searched.
        space: by key.
        stream: of the draws.
        identity: every setting that the trials depend on, as JSON values.

    Raises:
        JournalBroken: the file cannot be read.
        StateMismatch: it holds a search with other settings.
    """

    def __init__(self, path: Path, name: str, space: Mapping[str, Parameter], stream: Stream, identity: Record) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._distributions = {key: _distribution(parameter) for key, parameter in space.items()}
        self._space = space
        self._stream = stream
        try:
            _mend(path)
            storage = JournalStorage(JournalFileBackend(str(path)))
            begun = any(study.study_name == name for study in storage.get_all_studies())
            self._study = (
                optuna.load_study(study_name=name, storage=storage)
                if begun
                else optuna.create_study(study_name=name, storage=storage, direction="maximize")
            )
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise JournalBroken(f"{path} cannot be read ({error}): move it away, and the search begins anew") from None
        self._identify(path, json.loads(json.dumps(identity)))

    def told(self) -> list[Told]:
        """Return the finished trials, in order."""
        return [_told(trial) for trial in self._trials()]

    def draw(self) -> Point:
        """Return what is tried next; the same until a trial is told."""
        trials = self._trials()
        seed = self._stream.of("draw", len(trials)).number() % _SEEDS
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)
        # asked of a copy in memory: what is only drawn stands in no journal
        copy = optuna.create_study(direction="maximize", sampler=sampler)
        copy.add_trials(trials)
        drawn = copy.ask(dict(self._distributions)).params
        return {key: _rounded(parameter, drawn[key]) for key, parameter in self._space.items()}

    def tell(self, point: Point, judged: Judged, seconds: float, commit: str) -> Told:
        """Write a finished trial; it is on the disk, whole, once this returns."""
        found = {"log_loss": judged.log_loss, "seconds": round(seconds, 1), "commit": commit}
        # one without a value counts as worse than any that has one
        state = TrialState.PRUNED if judged.auc is None else TrialState.COMPLETE
        self._study.add_trial(
            create_trial(
                state=state,
                value=judged.auc,
                params=dict(point),
                distributions=dict(self._distributions),
                user_attrs=found,
            )
        )
        return self.told()[-1]

    def importance(self) -> dict[str, float]:
        """Return each key's share in what tells the best trials from the rest, the largest first; empty for few trials.

        Source: PED-ANOVA (Watanabe et al., IJCAI 2023), as optuna has it.
        """
        values = {trial.value for trial in self._trials() if trial.state == TrialState.COMPLETE}
        if len(self._trials()) < FOR_IMPORTANCE or len(values) < 2:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that few trials make them uncertain is said where they are shown
            found = optuna.importance.get_param_importances(self._study)
        return dict(sorted(((key, found[key]) for key in self._space), key=lambda item: -item[1]))

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _identify(self, path: Path, identity: Any) -> None:
        was = self._study.user_attrs.get(_IDENTITY)
        if was is None:
            self._study.set_user_attr(_IDENTITY, identity)
            return
        changes = differences(was, identity)
        if changes:
            raise StateMismatch(
                f"{path} is a search with other settings: {'; '.join(changes)}. "
                "Put the settings back, or search into another folder"
            )


def _mend(path: Path) -> None:
    """Cut off a line that a kill left unfinished, and drop the lock that it left: this process alone writes here."""
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        write_durably(path, content[:whole])


def _distribution(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Times):
        return CategoricalDistribution(parameter.times)
    if not isinstance(parameter, Range):
        return CategoricalDistribution(parameter.values)
    if parameter.integer:
        return IntDistribution(round(parameter.low), round(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def _rounded(parameter: Parameter, value: Value) -> Value:
    """A number of few digits, which a person can read in a configuration."""
    if not isinstance(parameter, Range) or not isinstance(value, float):
        return value
    return min(max(float(f"{value:.{_DIGITS}g}"), parameter.low), parameter.high)


def _told(trial: FrozenTrial) -> Told:
    found = trial.user_attrs
    judged = Judged(trial.value, found["log_loss"])
    return Told(trial.number, dict(trial.params), judged, found["seconds"], found["commit"])
