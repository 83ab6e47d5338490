"""What all users of one test share: what they ask, what they found, and how far the plan is."""

from __future__ import annotations

import time
from collections import Counter

from loadtest.answers import Judge, Outcome, Verdict
from loadtest.catalogue import Catalogue
from loadtest.ledger import Ledger
from loadtest.plan import Plan, Stage
from loadtest.samples import Row, Samples
from loadtest.traffic import Traffic
from loadtest.verdicts import Bounds, past_knee

REASONS = 200


class Trial:
    """One run.

    Args:
        catalogue: of the store.
        plan: of the load.
        bounds: to hold.
        traffic: draws requests.
        ledger: keeps book of changes.
        judge: of answers.
    """

    def __init__(
        self, catalogue: Catalogue, plan: Plan, bounds: Bounds, traffic: Traffic, ledger: Ledger, judge: Judge
    ) -> None:
        self.catalogue = catalogue
        self.plan = plan
        self.bounds = bounds
        self.traffic = traffic
        self.ledger = ledger
        self.judge = judge
        self.scores, self.cold, self.changes = Samples(), Samples(), Samples()
        self.lags = Samples()
        self.reasons: Counter[str] = Counter()
        self.stopped_s: float | None = None
        self._began: float | None = None
        self._rows: list[Row] = []

    @property
    def began(self) -> bool:
        """Whether the plan runs."""
        return self._began is not None

    def begin(self) -> None:
        """Every user is there: the plan starts now."""
        self._began = time.perf_counter()

    def offset(self) -> float:
        """Seconds since the plan began; 0 before."""
        return 0.0 if self._began is None else time.perf_counter() - self._began

    @property
    def wrong(self) -> int:
        """Answers of any kind by a wrong revision."""
        return self.scores.count(Outcome.WRONG) + self.cold.count(Outcome.WRONG)

    def note(self, samples: Samples, due_s: float, latency_s: float, verdict: Verdict) -> None:
        """Note what became of a request."""
        samples.add(due_s, latency_s, verdict.outcome)
        if verdict.reason and (verdict.reason in self.reasons or len(self.reasons) < REASONS):
            self.reasons[verdict.reason] += 1

    def stage(self) -> Stage | None:
        """The stage now; None when the test is over: at the plan's end, or when steps are two past the knee."""
        now = self.offset()
        if self.stopped_s is None and self.plan.shape == "step" and past_knee(self.rows(now), self.bounds):
            self.stopped_s = now
        return None if self.stopped_s is not None else self.plan.at(now)

    def rows(self, until_s: float) -> list[Row]:
        """Figures of the stages that ended before a moment; each is drawn up once, when its answers have come in."""
        for stage in self.plan.stages[len(self._rows) :]:
            if stage.end_s + self.bounds.p99_ms / 1000 > until_s:
                break
            self._rows.append(self.scores.of_stage(stage))
        return list(self._rows)

    def final_rows(self) -> list[Row]:
        """Figures of all stages that ran to their end, drawn up afresh now that every answer is in."""
        end = self.plan.end_s if self.stopped_s is None else self.stopped_s
        end = min(end, self.offset())
        return [self.scores.of_stage(stage) for stage in self.plan.stages if stage.end_s <= end]
