"""GET /healthz/* and /metrics: open to everyone; probes and scrapers carry no token, and nothing private is told."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI
from starlette.responses import Response

from service.metrics import CONTENT_TYPE, Metrics
from service.refusals import NotReady
from service.routes.described import problems
from service.routes.replies import HealthReply


class HealthRoutes:
    """Probes; every port has them.

    Args:
        serving: whether this replica takes requests: all its ports listen, and it is not draining. The store plays no
            part in it.
    """

    def __init__(self, serving: Callable[[], bool]) -> None:
        self._serving = serving

    def register(self, app: FastAPI) -> None:
        """Add the routes to an app."""
        app.add_api_route("/healthz/live", self.live, methods=["GET"], tags=["health"])
        app.add_api_route("/healthz/ready", self.ready, methods=["GET"], responses=problems(503), tags=["health"])
        app.add_api_route("/healthz/startup", self.startup, methods=["GET"], tags=["health"])

    async def live(self) -> HealthReply:
        """The event loop turns; also while the replica drains."""
        return HealthReply()

    async def ready(self) -> HealthReply:
        """The replica scores; it does not depend on the store, because what is resident keeps serving without it."""
        if not self._serving():
            raise NotReady("this replica does not take requests: it is about to start, or finishes what it has")
        return HealthReply()

    async def startup(self) -> HealthReply:
        """The backbone is verified; no port opens before that, so whoever is answered at all hears yes."""
        return HealthReply()


class MetricsRoutes:
    """What Prometheus scrapes; on the admin port where there is one.

    Args:
        metrics: what /metrics shows.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def register(self, app: FastAPI) -> None:
        """Add the routes to an app."""
        app.add_api_route(
            "/metrics",
            self.metrics,
            methods=["GET"],
            response_class=Response,
            responses={
                200: {"description": "Prometheus text format", "content": {"text/plain": {}}},
                **problems(422, 503),
            },
            tags=["health"],
        )

    async def metrics(self, own: bool = False) -> Response:
        """Metrics of this replica in Prometheus' text format, summed over its workers.

        With `own=true` those of the one worker that answers: to find which of them differs.
        """
        shown = self._metrics.exposition() if own else await self._metrics.shown()
        return Response(shown, media_type=CONTENT_TYPE)
