"""The HTTP application over one replica: routes, their collaborators, and the edge around them."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from structlog.typing import FilteringBoundLogger

from service.auth import Guard, TokenBook
from service.edge import Edge, tell_problem
from service.limits import UploadGate
from service.logs import AuditLog
from service.metrics import Metrics
from service.openapi import describe
from service.replica import Replica
from service.routes.access import Access
from service.routes.adapters import AdapterRoutes
from service.routes.changes import ChangeRoutes
from service.routes.health import HealthRoutes
from service.routes.publish import PublishRoutes
from service.routes.score import ScoreRoute
from service.settings import Settings

DESCRIPTION = "One frozen CTR backbone, one small adapter per domain, swapped while requests run."


def create_app(
    replica: Replica,
    *,
    settings: Settings,
    tokens: TokenBook,
    metrics: Metrics,
    log: FilteringBoundLogger,
    serving: Callable[[], bool] = lambda: True,
) -> FastAPI:
    """Build the application.

    Args:
        replica: opened and started by the caller, who also stops it.
        settings: limits and times.
        tokens: the bearer tokens accepted; without any, scoring is open on loopback and publishing closed.
        metrics: the replica's observer, shown by /metrics.
        log: for the audit and for failures.
        serving: whether /healthz/ready says yes.
    """
    guard = Guard(tokens, open_scoring=settings.loopback)
    app = FastAPI(title="Espalier", description=DESCRIPTION, redoc_url=None, redirect_slashes=False)
    score = ScoreRoute(
        replica.scorer,
        guard=guard,
        clock=replica.clock,
        metrics=metrics,
        body_bytes=settings.score_body_bytes,
        deadline_s=settings.deadline_ms / 1000,
    )
    app.add_route("/score", score.score, methods=["POST"], include_in_schema=False)
    access, audit = Access(guard), AuditLog(log)
    PublishRoutes(
        replica.publisher,
        access,
        UploadGate(settings.uploads_in_flight),
        audit,
        body_bytes=settings.max_adapter_bytes,
        body_read_s=settings.body_read_s,
        wait_s=settings.publish_wait_ms / 1000,
    ).register(app)
    ChangeRoutes(
        replica.publisher, access, audit, body_read_s=settings.body_read_s, wait_s=settings.publish_wait_ms / 1000
    ).register(app)
    AdapterRoutes(replica.publisher, access).register(app)
    HealthRoutes(metrics, serving).register(app)
    app.add_exception_handler(HTTPException, tell_problem)
    app.add_exception_handler(RequestValidationError, tell_problem)
    app.add_middleware(Edge, metrics=metrics, log=log, header_bytes=settings.header_bytes)
    describe(app)
    return app
