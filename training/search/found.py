"""What a search may spend, and what it has found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.search.judging import Judged
from training.search.space import Parameter, Point
from training.trials.trial import Config


@dataclass(frozen=True)
class Told:
    """A finished trial.

    Args:
        number: from 0, the configuration as given.
        point: what was tried.
        judged: what it was worth.
        seconds: that it took in the sitting that finished it.
        commit: of the code.
    """

    number: int
    point: Point
    judged: Judged
    seconds: float
    commit: str


@dataclass(frozen=True)
class Budget:
    """What every method may spend; earlier sittings count.

    Args:
        trials: finished trials of each method, the configuration as given among them.
        hours: once a method's trials have taken as long together no other begins; None sets no bound.
    """

    trials: int
    hours: float | None = None

    def spent(self, told: Sequence[Told]) -> bool:
        """Whether no trial may begin any more; the first one, of the configuration as given, always may."""
        if len(told) >= self.trials:
            return True
        return bool(told) and self.hours is not None and sum(one.seconds for one in told) >= 3600 * self.hours


@dataclass(frozen=True)
class Searched:
    """What there is of one method's search.

    Args:
        name: of the method.
        config: the best trial's.
        space: that was searched.
        told: the finished trials, the configuration as given first.
        importance: of each key, the largest first; empty for few trials.
    """

    name: str
    config: Config
    space: Mapping[str, Parameter]
    told: tuple[Told, ...]
    importance: Mapping[str, float]

    @property
    def best(self) -> Told:
        """The trial with the best AUC; the earliest of equal ones."""
        return best_of(self.told)


def best_of(told: Sequence[Told]) -> Told:
    """Return the trial with the best AUC, the earliest of equal ones; a trial without one is no candidate."""
    _, place = max((one.judged.auc, -place) for place, one in enumerate(told) if one.judged.auc is not None)
    return told[-place]
