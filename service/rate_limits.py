"""How much one token may ask for: requests and rows a second, counted by this process, told as 429 with Retry-After."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter

from service.clock import Clock
from service.refusals import RateLimited

NAMED_TOKENS = 100  # that have a series of their own; a tokens file may have thousands
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one token may ask for; None is no limit.

    Args:
        requests_per_s: requests a second that are admitted in the long run.
        burst: requests admitted at once after a pause; one second's worth if None.
        rows_per_s: rows (items of a /score request) a second in the long run.
    """

    requests_per_s: float | None = None
    burst: int | None = None
    rows_per_s: float | None = None


class RateLimits:
    """Counts what each token asks for, by the generic cell rate algorithm (ITU-T I.371, annex A).

    Of each bucket only the moment is kept at which it will be empty again: two numbers for each token that has limits.
    Each process counts for itself: with several workers, or replicas, a token gets its limit from every one of them.
    What was admitted stays charged, whatever becomes of the request.

    Args:
        clock: whose seconds count.
        registry: gets `espalier_rate_limited_total{token}`; the names of `NAMED_TOKENS` tokens, then `other`.
        most_rows: that one request is charged for; a larger one is refused by the scorer.
    """

    def __init__(self, clock: Clock, registry: CollectorRegistry, most_rows: int) -> None:
        self._clock = clock
        self._most_rows = most_rows
        self._empty_at: dict[tuple[str, str], float] = {}
        self._limited = Counter(
            "espalier_rate_limited", "Requests refused by their token's limits.", ["token"], registry=registry
        )
        self._named: set[str] = set()

    def request(self, token: str, limits: Limits) -> None:
        """Charge a token for one request.

        Args:
            token: its name.
            limits: of it.

        Raises:
            RateLimited: it has asked too often; nothing is charged.
        """
        if limits.requests_per_s is not None:
            burst = float(limits.burst or max(1.0, limits.requests_per_s))
            self._charge(token, "requests", 1, limits.requests_per_s, burst)

    def rows(self, token: str, limits: Limits, rows: int) -> None:
        """Charge a token for the rows of one request.

        A request of more rows than a second's worth is admitted when nothing is owed, and the next ones wait until it
        is paid off; so no request is impossible, and the rate holds all the same.

        Args:
            token: its name.
            limits: of it.
            rows: items of the request.

        Raises:
            RateLimited: it has asked for too many rows; nothing is charged.
        """
        if limits.rows_per_s is not None:
            cost = min(rows, self._most_rows)
            self._charge(token, "rows", cost, limits.rows_per_s, max(1.0, limits.rows_per_s))

    def _charge(self, token: str, unit: str, cost: int, per_s: float, burst: float) -> None:
        now = self._clock.now()
        empty_at = max(now, self._empty_at.get((token, unit), now))
        wait_s = empty_at - now - (burst - 1) / per_s
        # a client that waits exactly as told is not refused for the last bit of a sum
        if wait_s > 1e-9:
            self._limited.labels(self._label(token)).inc()
            raise RateLimited(
                f"the token {token!r} may ask for {per_s:g} {unit} a second; try again in {wait_s:.3g} s", wait_s
            )
        self._empty_at[token, unit] = empty_at + cost / per_s

    def _label(self, token: str) -> str:
        if token not in self._named and len(self._named) < NAMED_TOKENS:
            self._named.add(token)
        return token if token in self._named else OTHER
