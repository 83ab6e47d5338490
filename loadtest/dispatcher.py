"""The clock of a test: in an open loop requests fall due whatever becomes of others, in a closed loop users are it."""

from __future__ import annotations

import math
import random
from typing import Protocol

import gevent
from gevent.queue import Empty, Queue

from loadtest.answers import Outcome, Verdict
from loadtest.plan import Stage, arrivals
from loadtest.trial import Trial

UNSENT = Verdict(Outcome.UNSENT, "never sent: no connection was free before the stage ended")


class Pacing(Protocol):
    """Tells a user when to ask next."""

    def take(self) -> float | None:
        """When the next request was due, in seconds since the plan began, as soon as it is; None: ask again."""

    def run(self) -> None:
        """Keep time until the plan ends."""


class ClosedLoop:
    """Each user asks as soon as it was answered: load follows the server, and a slow server is asked less.

    Args:
        trial: whose plan says how many users there are.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def take(self) -> float | None:
        """Now."""
        if not self._trial.began:
            gevent.sleep(0.05)
            return None
        return self._trial.offset()

    def run(self) -> None:
        """Nothing to keep: the users are the clock."""


class OpenLoop:
    """One clock for all users: a request that is due goes to any free one, and waits while none is.

    What a stage could not send is dropped at its end and counted, so that the next stage is measured by itself.

    Args:
        trial: whose plan says how many requests are due.
        rng: draws the moments.
    """

    def __init__(self, trial: Trial, rng: random.Random) -> None:
        self._trial = trial
        self._due: Queue[float] = Queue()
        self._arrivals = arrivals(trial.plan, rng)

    def take(self) -> float | None:
        """The request that is due and has waited longest."""
        try:
            return float(self._due.get(timeout=0.5))
        except Empty:
            return None

    def run(self) -> None:
        """Let every request of the plan fall due in its time."""
        stage: Stage | None = None
        for due in self._arrivals:
            wait = due - self._trial.offset()
            # a generator that is behind must still let its users run
            gevent.sleep(max(0.0, wait))
            # how late this clock itself woke; where it is much, the figures are the generator's and not the server's
            self._trial.lags.add(due, max(0.0, self._trial.offset() - due), Outcome.OK)
            if (now := self._trial.plan.at(due)) != stage:
                self.drop()
                stage = now
            self._due.put(due)
        gevent.sleep(max(0.0, self._trial.plan.end_s - self._trial.offset()))
        self.drop()

    def drop(self) -> None:
        """Count what nobody could send."""
        while True:
            try:
                due = self._due.get_nowait()
            except Empty:
                return
            self._trial.note(self._trial.scores, due, math.inf, UNSENT)
