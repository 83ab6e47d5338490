"""Rate limits: how much one token may ask for, and what it is told."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from benchmarks.forge import Run
from service.app import create_app
from service.auth import Guard, Scope, TokenBook, TokenEntry
from service.logs import open_log
from service.metrics import Metrics
from service.problems import problem_of
from service.rate_limits import NAMED_TOKENS, Limits, RateLimits
from service.refusals import Forbidden, RateLimited, Unauthenticated
from tests.service.clockwork import ManualClock
from tests.service.live import espalier

MOST_ROWS = 100
MEMBERS = {"type", "title", "status", "detail", "request_id"}


class Meter:
    """Limits over a clock that the test moves."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.registry = CollectorRegistry()
        self.limits = RateLimits(self.clock, self.registry, MOST_ROWS)

    def admitted(self, limits: Limits, token: str = "one", rows: int | None = None) -> bool:
        """Whether one request, or its rows, are admitted now."""
        try:
            if rows is None:
                self.limits.request(token, limits)
            else:
                self.limits.rows(token, limits, rows)
        except RateLimited:
            return False
        return True

    def refused(self, token: str) -> float | None:
        """How often a token was refused, as the metric says it."""
        return self.registry.get_sample_value("espalier_rate_limited_total", {"token": token})


@pytest.mark.parametrize(
    ("limits", "at_once"), [(Limits(5), 5), (Limits(5, 2), 2), (Limits(5, 20), 20), (Limits(0.2), 1), (Limits(2.5), 2)]
)
def test_a_rested_token_may_ask_as_often_as_its_burst(limits: Limits, at_once: int) -> None:
    """Law: after a pause exactly `burst` requests pass at once, one second's worth unless it is given, never none."""
    meter = Meter()
    assert [meter.admitted(limits) for _ in range(at_once + 2)] == [True] * at_once + [False] * 2


async def test_a_token_that_waits_as_long_as_told_is_admitted() -> None:
    """Law: the wait that a refusal names is enough, and nothing less is."""
    meter = Meter()
    for _ in range(50):
        while meter.admitted(Limits(3.3, 7)):
            pass
        with pytest.raises(RateLimited) as refusal:
            meter.limits.request("one", Limits(3.3, 7))
        await meter.clock.advance(refusal.value.retry_after_s * 0.99)
        assert not meter.admitted(Limits(3.3, 7))
        await meter.clock.advance(refusal.value.retry_after_s * 0.01)
        assert meter.admitted(Limits(3.3, 7))


@given(
    per_s=st.floats(0.1, 1000),
    burst=st.integers(1, 50),
    gaps_s=st.lists(st.floats(0, 5), min_size=1, max_size=100),
)
def test_no_stretch_of_time_holds_more_than_burst_and_rate_allow(per_s: float, burst: int, gaps_s: list[float]) -> None:
    """Law: whatever the arrivals, at most burst + rate x time are admitted between any two of them."""
    clock = SetClock()
    limits = RateLimits(clock, CollectorRegistry(), MOST_ROWS)
    passed: list[float] = []
    for gap_s in gaps_s:
        clock.seconds += gap_s
        try:
            limits.request("one", Limits(per_s, burst))
        except RateLimited:
            continue
        passed.append(clock.seconds)
    for first, start in enumerate(passed):
        for count, end in enumerate(passed[first:], 1):
            assert count <= burst + per_s * (end - start) + 1e-6


async def test_rows_are_paid_off_before_the_next_request_is_admitted() -> None:
    """Law: a request of more rows than a second's worth is admitted at rest, and its rows count in full afterwards."""
    meter = Meter()
    assert meter.admitted(Limits(rows_per_s=10), rows=50)
    await meter.clock.advance(4.0)
    assert not meter.admitted(Limits(rows_per_s=10), rows=1)
    await meter.clock.advance(0.2)
    assert meter.admitted(Limits(rows_per_s=10), rows=1)


def test_a_request_that_is_too_large_costs_no_more_than_the_largest_one() -> None:
    """Law: a mistaken request of a million items does not shut its sender out for hours."""
    meter = Meter()
    assert meter.admitted(Limits(rows_per_s=10), rows=1_000_000)
    with pytest.raises(RateLimited) as refusal:
        meter.limits.rows("one", Limits(rows_per_s=10), 1)
    assert refusal.value.retry_after_s <= MOST_ROWS / 10


def test_a_refusal_costs_nothing() -> None:
    """Law: whoever keeps asking is not put off any further."""
    meter = Meter()
    meter.admitted(Limits(1))
    waits = []
    for _ in range(3):
        with pytest.raises(RateLimited) as refusal:
            meter.limits.request("one", Limits(1))
        waits.append(refusal.value.retry_after_s)
    assert waits == [waits[0]] * 3


def test_tokens_do_not_take_from_each_other_nor_rows_from_requests() -> None:
    """Law: each token has its own count of requests, and its own of rows."""
    meter = Meter()
    limits = Limits(1, 1, 1)
    assert [meter.admitted(limits, "one"), meter.admitted(limits, "two")] == [True, True]
    assert [meter.admitted(limits, "one", rows=1), meter.admitted(limits, "two", rows=1)] == [True, True]
    assert [meter.admitted(limits, "one"), meter.admitted(limits, "one", rows=1)] == [False, False]


def test_a_token_without_limits_is_never_refused() -> None:
    """Law: None is no limit, and nothing is kept for it."""
    meter = Meter()
    assert all(meter.admitted(Limits()) and meter.admitted(Limits(), rows=10**9) for _ in range(1000))


def test_refusals_are_counted_by_token_and_the_series_are_bounded() -> None:
    """Law: the metric names the token, but a file of thousands of tokens makes no thousands of series."""
    meter = Meter()
    for number in range(NAMED_TOKENS + 20):
        meter.admitted(Limits(1), f"t{number}")
        meter.admitted(Limits(1), f"t{number}")
    assert (meter.refused("t0"), meter.refused("other")) == (1, 20)
    samples = next(iter(meter.registry.collect())).samples
    assert len([sample for sample in samples if sample.name.endswith("_total")]) == NAMED_TOKENS + 1


def test_the_guard_counts_what_scopes_forbid_and_nothing_of_strangers() -> None:
    """Law: a known token that asks for what it may not is limited too; who has no token has no count."""
    meter = Meter()
    guard = Guard(book(requests_per_s=1, burst=2), open_scoring=False, limits=meter.limits)
    for _ in range(10):
        with pytest.raises(Unauthenticated):
            guard.authorize("Bearer guessed", Scope("score"))
    guard.authorize("Bearer secret", Scope("score"))
    with pytest.raises(Forbidden):
        guard.authorize("Bearer secret", Scope("admin"))
    with pytest.raises(RateLimited, match="'one' may ask for 1 requests a second"):
        guard.authorize("Bearer secret", Scope("score"))


def test_a_refusal_is_a_problem_with_whole_seconds_to_wait() -> None:
    """Law: 429 as problem details, Retry-After never too short and never 0, the token's name but not the token."""
    problem = problem_of(RateLimited("the token 'one' may ask for 1 requests a second; try again in 0.2 s", 0.2))
    assert (problem.status, problem.kind, problem.headers) == (429, "rate-limited", {"Retry-After": "1"})
    assert set(problem.content("id")) == MEMBERS
    assert problem_of(RateLimited("", 3.01)).headers == {"Retry-After": str(math.ceil(3.01))}


async def test_over_http_the_limits_of_a_token_answer_429(random_run: Run) -> None:
    """Law: past its rows or requests a token is told 429 as a problem with Retry-After, on every route alike."""
    body = {"user_id": 7, "domain_id": "theme-1", "item_ids": ["item-1", "item-2"]}
    async with espalier(random_run) as live:
        log = open_log(stream=io.StringIO())
        metrics = Metrics(log)
        tokens = book(scopes=["score", "read"], requests_per_s=0.001, burst=3, rows_per_s=0.001)
        app = create_app(live.replica, settings=live.settings, tokens=tokens, metrics=metrics, log=log)
        headers = {"Authorization": "Bearer secret"}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            answers = [await client.post("/score", json=body) for _ in range(2)]
            answers += [await client.get("/adapters") for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429, 200, 429]
        assert b'espalier_rate_limited_total{token="one"} 2.0' in metrics.exposition()
    for answer, unit in ((answers[1], "rows"), (answers[3], "requests")):
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) > 900
        assert set(answer.json()) == MEMBERS
        assert f"{unit} a second" in answer.json()["detail"]


def book(scopes: Sequence[str] = ("score",), **limits: Any) -> TokenBook:
    """One token, `secret`, of `one`."""
    digest = hashlib.sha256(b"secret").hexdigest()
    return TokenBook([TokenEntry(name="one", sha256=digest, scopes=list(scopes), **limits)])


class SetClock(ManualClock):
    """A clock whose seconds are set, for tests without an event loop."""

    seconds = 0.0

    def now(self) -> float:
        """Seconds since the test began."""
        return self.seconds
