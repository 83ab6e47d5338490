"""Locust's users: they score popular and cold domains, publish dyes, and flip canaries."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gevent
from locust import FastHttpUser, task
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment

from loadtest.answers import OK, Outcome, Verdict
from loadtest.catalogue import Dye
from loadtest.dispatcher import Pacing
from loadtest.ledger import Alias
from loadtest.traffic import Question
from loadtest.trial import Trial

DONE = (200, 201)
BUSY = 429
TRIES = 5
# a publish is answered when it is active, which may take as long as the server's publish_wait_ms
CHANGE_S = 20.0


class EspalierUser(FastHttpUser):
    """What all users have: the trial, a token, and requests whose outcome is theirs to say."""

    abstract = True
    insecure = False  # a token goes to nobody whose certificate does not hold
    # filled when Locust starts, before a user is made
    trial: Trial
    pacing: Pacing
    headers: Mapping[str, str]
    every_s: Mapping[str, float]

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._last = -math.inf

    def send(self, method: str, path: str, name: str, body: bytes | None = None) -> ResponseContextManager:
        """Send a request; the caller enters what comes back and says how it ended."""
        data: Any = body  # Locust's annotation forgets bytes
        return self.client.request(method, path, name=name, data=data, headers=dict(self.headers), catch_response=True)

    def pace(self, every_s: float) -> None:
        """Wait until `every_s` after the last turn began; a turn that is late is not caught up with."""
        while not self.trial.began:
            gevent.sleep(0.05)
        gevent.sleep(max(0.0, self._last + every_s - time.perf_counter()))
        self._last = time.perf_counter()

    def ask(self, question: Question, name: str, due: float) -> tuple[Verdict, float]:
        """Send a scoring request.

        Args:
            question: to send.
            name: in Locust's report.
            due: when it was due, in seconds since the plan began; its latency counts from there.

        Returns:
            What the answer is worth, and its latency in seconds.
        """
        sent = time.perf_counter()
        with self.send("POST", "/score", name, question.body) as answer:
            answered, latency = time.perf_counter(), self.trial.offset() - due
            answer.request_meta["response_time"] = latency * 1000
            verdict = self.trial.judge.judge(question, answer.status_code, answer.content or b"", sent, answered)
            _report(answer, verdict)
        return verdict, latency


class ScoringUser(EspalierUser):
    """One connection that scores popular domains whenever the clock says so."""

    @task
    def score(self) -> None:
        """Send what is due; its latency counts from when it was due, not from when a connection was free."""
        due = self.pacing.take()
        if due is None:
            return
        verdict, latency = self.ask(self.trial.traffic.popular(), "score", due)
        self.trial.note(self.trial.scores, due, latency, verdict)


class ColdUser(EspalierUser):
    """Asks for one domain after the other that nobody else asks for, so that most are not in memory."""

    fixed_count = 1

    @task
    def score(self) -> None:
        """Score the domain that was asked for longest ago."""
        self.pace(self.every_s["cold"])
        if not self.trial.catalogue.cold:
            return
        due = self.trial.offset()
        verdict, latency = self.ask(self.trial.traffic.cold(), "score cold", due)
        self.trial.note(self.trial.cold, due, latency, verdict)


class ChangingUser(EspalierUser):
    """Changes what domains are scored by, and books every change before it is sent and when it is answered."""

    abstract = True
    network_timeout = CHANGE_S

    def name_revision(self, method: str, path: str, label: str, alias: Alias, dye: Dye, body: bytes) -> bool:
        """Send a change after which an alias names a revision; whether it was acknowledged."""
        trial = self.trial
        trial.ledger.proposed(dye.domain, alias, dye.revision, time.perf_counter())
        status = self.change(method, path, label, body)
        now = time.perf_counter()
        if status in DONE:
            trial.ledger.settled(dye.domain, alias, dye.revision, now)
        elif 400 <= status < 500:
            trial.ledger.refused(dye.domain, alias, dye.revision, now)
        return status in DONE

    def change(self, method: str, path: str, label: str, body: bytes | None = None) -> int:
        """Send a change, again while the server asks for that; the status of its last answer, 0 for none."""
        due = self.trial.offset()
        for left in reversed(range(TRIES)):
            with self.send(method, path, label, body) as answer:
                status = int(answer.status_code)
                if status == BUSY and left:
                    answer.request_meta["name"] = f"{label}: asked to come again"
                    answer.success()
                    gevent.sleep(float((answer.headers or {}).get("retry-after", "1")))
                    continue
                verdict = OK if status in DONE else Verdict(Outcome.ERROR, f"{label}: status {status}")
                _report(answer, verdict)
            break
        self.trial.note(self.trial.changes, due, self.trial.offset() - due, verdict)
        return status


class PublishingUser(ChangingUser):
    """Publishes the dyes of every other dyed domain, one after the other."""

    fixed_count = 1

    def on_start(self) -> None:
        """Read the artifacts; nothing of a file is read while the test runs."""
        self._bodies = _bodies(self.trial, first=0)
        self._turns: Iterator[tuple[Dye, bytes]] = itertools.cycle(_interleaved(self._bodies))

    @task
    def publish(self) -> None:
        """POST the next dye."""
        self.pace(self.every_s["publish"])
        if not self._bodies:
            return
        dye, body = next(self._turns)
        path = f"/adapters/{dye.domain}?revision={dye.revision}"
        self.name_revision("POST", path, "publish", "live", dye, body)


class CanaryUser(ChangingUser):
    """On the other dyed domains: sets a canary, widens it, and then promotes it or ends it, turn by turn."""

    fixed_count = 1

    def on_start(self) -> None:
        """Read the artifacts."""
        self._bodies = _bodies(self.trial, first=1)
        self._turns = itertools.cycle(self._flips()) if self._bodies else None
        self._canary: Dye | None = None

    @task
    def flip(self) -> None:
        """Take the next step."""
        self.pace(self.every_s["flip"])
        if self._turns is not None:
            step, dye, body = next(self._turns)
            step(dye, body)

    def _flips(self) -> Iterator[tuple[Callable[[Dye, bytes], None], Dye, bytes]]:
        for turn, (dye, body) in enumerate(_interleaved(self._bodies)):
            last = self._promote if turn // len(self._bodies) % 2 else self._end
            yield from ((step, dye, body) for step in (self._start_canary, self._widen, last))

    def _start_canary(self, dye: Dye, body: bytes) -> None:
        """Store it and let it score some users as the canary; what is live already cannot be one."""
        self._canary = None
        if self.trial.ledger.live(dye.domain) == dye.revision:
            return
        path = f"/adapters/{dye.domain}?revision={dye.revision}&activate=false"
        if self.change("POST", path, "store", body) in DONE and self._set(dye, 20):
            self._canary = dye

    def _widen(self, dye: Dye, body: bytes) -> None:
        """Let it score more of them."""
        if self._canary == dye:
            self._set(dye, 60)

    def _promote(self, dye: Dye, body: bytes) -> None:
        """Make it live; that ends it as a canary."""
        if self._canary == dye:
            path = f"/adapters/{dye.domain}/aliases/live"
            if self.name_revision("PUT", path, "promote", "live", dye, b'{"revision":"%b"}' % dye.revision.encode()):
                self.trial.ledger.settled(dye.domain, "canary", None, time.perf_counter())

    def _end(self, dye: Dye, body: bytes) -> None:
        """Let live score everyone again."""
        if (
            self._canary == dye
            and self.change("DELETE", f"/adapters/{dye.domain}/aliases/canary", "end canary") in DONE
        ):
            self.trial.ledger.settled(dye.domain, "canary", None, time.perf_counter())

    def _set(self, dye: Dye, percent: int) -> bool:
        body = b'{"revision":"%b","percent":%d}' % (dye.revision.encode(), percent)
        return self.name_revision("PUT", f"/adapters/{dye.domain}/aliases/canary", "canary", "canary", dye, body)


def _bodies(trial: Trial, first: int) -> dict[str, list[tuple[Dye, bytes]]]:
    """Dyes that can be published, of every second domain."""
    chosen = list(trial.catalogue.dyes.items())[first::2]
    return {domain: [(dye, dye.path.read_bytes()) for dye in dyes if dye.path] for domain, dyes in chosen}


def _interleaved(bodies: Mapping[str, list[tuple[Dye, bytes]]]) -> list[tuple[Dye, bytes]]:
    return [pair for turn in zip(*bodies.values(), strict=False) for pair in turn]


def _report(answer: Any, verdict: Verdict) -> None:
    if verdict.outcome in (Outcome.OK, Outcome.FALLBACK):
        answer.success()
    else:
        answer.failure(verdict.reason)
