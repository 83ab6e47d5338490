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
    """Probes and metrics.

    Args:
        metrics: what /metrics shows.
        serving: whether this replica takes requests: started, and not draining. The store plays no part in it.
    """

    def __init__(self, metrics: Metrics, serving: Callable[[], bool]) -> None:
        self._metrics = metrics
        self._serving = serving

    def register(self, app: FastAPI) -> None:
        """Add the routes to an app."""
        app.add_api_route("/healthz/live", self.live, methods=["GET"], tags=["health"])
        app.add_api_route("/healthz/ready", self.ready, methods=["GET"], responses=problems(503), tags=["health"])
        app.add_api_route("/healthz/startup", self.startup, methods=["GET"], tags=["health"])
        app.add_api_route(
            "/metrics",
            self.metrics,
            methods=["GET"],
            response_class=Response,
            responses={200: {"description": "Prometheus text format", "content": {"text/plain": {}}}},
            tags=["health"],
        )

    async def live(self) -> HealthReply:
        """The event loop turns."""
        return HealthReply()

    async def ready(self) -> HealthReply:
        """The replica scores; it does not depend on the store, because what is resident keeps serving without it."""
        if not self._serving():
            raise NotReady("this replica is draining: it finishes what it has and takes no more")
        return HealthReply()

    async def startup(self) -> HealthReply:
        """The backbone is verified; the port opens only after that."""
        return HealthReply()

    async def metrics(self) -> Response:
        """Metrics in Prometheus' text format."""
        return Response(self._metrics.exposition(), media_type=CONTENT_TYPE)
