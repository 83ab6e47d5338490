"""A sitting: takes the results that are kept, trains what is missing, and may end before all of it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.progress import Meter
from training.trials.kept import Found, KeptResults
from training.trials.trial import Trial, remove_run

Train = Callable[[Trial, Path, Meter], Found]


@dataclass(frozen=True)
class Sat:
    """What there is at the end of a sitting.

    Args:
        found: results, by trial.
        missing: trials that are left for another sitting.
        other_commits: trials whose result came from other code, and the code's commit.
    """

    found: dict[Trial, Found]
    missing: tuple[Trial, ...]
    other_commits: dict[Trial, str]


class Sitting:
    """Runs trials in one folder: OUT/kept holds results, OUT/runs the state of trials that are not finished.

    Args:
        out: the folder of the table.
        train: trains one trial in a folder, or goes on there.
        meter: where progress goes.
        any_commit: take a kept result whatever code it came from, where the present code has none.
        keep_runs: leave the run folders of finished trials.
    """

    def __init__(
        self, out: Path, train: Train, meter: Meter, *, any_commit: bool = False, keep_runs: bool = False
    ) -> None:
        self._kept = KeptResults(out / "kept")
        self._runs = out / "runs"
        self._train = train
        self._meter = meter
        self._any_commit = any_commit
        self._keep_runs = keep_runs

    def run(self, trials: Sequence[Trial], most: int | None = None) -> Sat:
        """Take what is kept and train the rest, in the order given.

        Args:
            trials: of the table.
            most: trainings of this sitting; None is all.

        Raises:
            TrainingError: as training does; what was finished before is kept.
        """
        found, other = self._taken(trials)
        left = [trial for trial in trials if trial not in found]
        now = left if most is None else left[:most]
        self._meter.say(f"{len(found)} of {len(trials)} trials are kept; {len(now)} are trained now")
        for place, trial in enumerate(now, 1):
            self._meter.say(f"trial {place} of {len(now)}: {trial.method}, seed {trial.seed}")
            found[trial] = self._trained(trial)
        missing = tuple(trial for trial in trials if trial not in found)
        return Sat({trial: found[trial] for trial in trials if trial in found}, missing, other)

    def _taken(self, trials: Sequence[Trial]) -> tuple[dict[Trial, Found], dict[Trial, str]]:
        found: dict[Trial, Found] = {}
        other: dict[Trial, str] = {}
        for trial in trials:
            kept = self._kept.get(trial.key)
            elsewhere = {} if kept is not None else self._kept.of_other_commits(trial.key)
            if kept is not None:
                found[trial] = kept
            elif elsewhere and self._any_commit:
                other[trial], found[trial] = list(elsewhere.items())[-1]
            elif elsewhere:
                self._meter.say(
                    f"{trial.method}, seed {trial.seed}: a result of {', '.join(elsewhere)} is kept; the code is now "
                    f"{trial.commit}, so it is trained again (--any-commit takes it as it is)"
                )
        return found, other

    def _trained(self, trial: Trial) -> Found:
        folder = self._runs / trial.key.name
        folder.parent.mkdir(parents=True, exist_ok=True)
        found = self._train(trial, folder, self._meter)
        self._kept.put(trial.key, found)
        if not self._keep_runs:
            remove_run(folder)
        return found
