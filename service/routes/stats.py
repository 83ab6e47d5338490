"""GET /adapters/{domain}/stats: what this replica scored for a domain, exactly, however many domains there are."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel, Field

from adapters_store.ids import check_domain
from service.metrics import Metrics
from service.routes.access import Access
from service.routes.described import problems
from service.routes.replies import NoQuery
from service.totals import DomainStats


class StatsReply(BaseModel):
    """Counts of one domain since this replica started, over all its workers."""

    domain: str = Field(examples=["women"])
    since: str = Field(description="when the counting began", examples=["2026-11-21T17:00:00.000Z"])
    requests: int = Field(description="scored for the domain", examples=[1200])
    rows: int = Field(description="rows of those requests", examples=[120_000])
    canary_requests: int = Field(description="those of the requests that a canary scored")
    canary_rows: int = Field(description="rows of those")
    fallbacks: dict[str, int] = Field(
        description="reason -> requests that the live adapter did not score", examples=[{"loading": 3}]
    )
    exact: bool = Field(
        description="false after a worker was killed before it told all, while one does not answer, and for a domain "
        "that came when the table of domains was full: the counts are then too low"
    )

    @classmethod
    def of(cls, stats: DomainStats) -> StatsReply:
        """As the core says it."""
        return cls(
            domain=stats.domain,
            since=stats.since,
            requests=stats.requests,
            rows=stats.rows,
            canary_requests=stats.canary_requests,
            canary_rows=stats.canary_rows,
            fallbacks=stats.fallbacks,
            exact=stats.exact,
        )


class StatsRoute:
    """Counts by domain.

    Args:
        metrics: has them.
        access: lets callers with the scope read in.
    """

    def __init__(self, metrics: Metrics, access: Access) -> None:
        self._metrics = metrics
        self._access = access

    def register(self, app: FastAPI) -> None:
        """Add the route to an app."""
        app.add_api_route(
            "/adapters/{domain}/stats",
            self.stats,
            methods=["GET"],
            dependencies=[Depends(self._access.read)],
            responses=problems(401, 403, 422, 503),
            tags=["adapters"],
        )

    async def stats(self, domain: str, query: Annotated[NoQuery, Query()]) -> StatsReply:
        """Show what this replica scored for a domain since it started; zeros where nothing was."""
        return StatsReply.of(await self._metrics.domain_stats(check_domain(domain)))
