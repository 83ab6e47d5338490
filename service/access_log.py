"""One line for a share of the answered requests, and for each that failed by the service's own fault."""

from __future__ import annotations

import random
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter
from structlog.typing import FilteringBoundLogger

from service.account import Account
from service.clock import Clock

FAULTS = 500  # statuses from here on are the service's fault
_FAULTS_PER_S = 50.0
_FAULTS_AT_ONCE = 200.0


class AccessLog:
    """Decides which requests get a line, and writes it; users and items are never named.

    Faults are written beyond the share, but only so many a second: where every request fails, a line for each would
    cost what is left to answer with.

    Args:
        log: where lines go.
        registry: shows how many lines of faults were left out.
        share: of the answered requests that get a line, 0 to 1.
        clock: by which lines of faults are counted.
        draw: uniform in [0, 1).
    """

    def __init__(
        self,
        log: FilteringBoundLogger,
        registry: CollectorRegistry,
        *,
        share: float,
        clock: Clock,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._log = log
        self._share = share
        self._clock = clock
        self._draw = draw
        self._left = _FAULTS_AT_ONCE
        self._counted_at = clock.now()
        self._dropped = Counter(
            "espalier_log_lines_dropped",
            "Lines of failed requests that were left out, because too many came at once.",
            registry=registry,
        )

    def wants(self, status: int) -> bool:
        """Whether a request that was answered so gets a line; asked once for each."""
        if self._draw() < self._share:
            return True
        return status >= FAULTS and self._has_room()

    def tell(
        self,
        *,
        route: str,
        method: str,
        status: int,
        seconds: float,
        request_id: str,
        account: Account,
        trace_id: str | None = None,
    ) -> None:
        """Write the line of a request.

        Args:
            route: its template, never its path.
            method: of HTTP.
            status: answered; 499 where the client left.
            seconds: from its headers to the end of the answer.
            request_id: as answered.
            account: what is known of it.
            trace_id: where it is traced.
        """
        facts: dict[str, object] = {
            "route": route,
            "method": method,
            "status": status,
            "seconds": round(seconds, 6),
            "request_id": request_id,
        }
        facts |= {name: value for name, value in _known(account).items() if value is not None}
        if account.stages:
            facts["stages"] = {name: round(spent, 6) for name, spent in account.seconds().items()}
        if trace_id is not None:
            facts["trace_id"] = trace_id
        if status >= FAULTS:
            self._log.warning("request", **facts)
        else:
            self._log.info("request", **facts)

    def _has_room(self) -> bool:
        now = self._clock.now()
        self._left = min(_FAULTS_AT_ONCE, self._left + (now - self._counted_at) * _FAULTS_PER_S)
        self._counted_at = now
        if self._left < 1.0:
            self._dropped.inc()
            return False
        self._left -= 1.0
        return True


def _known(account: Account) -> dict[str, object]:
    return {
        "by": account.by,
        "domain": account.domain,
        "rows": account.rows,
        "backbone": account.backbone,
        "revision": account.revision,
        "alias": account.alias,
        "generation": account.generation,
        "fallback": account.fallback,
        "error": account.error,
    }
