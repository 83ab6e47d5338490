"""The HTTP applications over one replica: routes, their collaborators, and the edge around them; one for each port."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp
from structlog.typing import FilteringBoundLogger

from service.access_log import AccessLog
from service.auth import Guard, Tokens
from service.direct import DirectApp
from service.edge import Edge, tell_problem
from service.feedback.room import FEEDBACK_OFF, Feedback
from service.limits import UploadGate
from service.logs import AuditLog
from service.metrics import Metrics
from service.openapi import describe
from service.rate_limits import RateLimits
from service.redaction import without_secrets
from service.replica import Replica
from service.routes.access import Access
from service.routes.adapters import AdapterRoutes
from service.routes.changes import ChangeRoutes
from service.routes.feedback import FeedbackRoutes
from service.routes.health import HealthRoutes, MetricsRoutes
from service.routes.publish import PublishRoutes
from service.routes.score import ScoreRoute
from service.routes.stats import StatsRoute
from service.settings import Settings
from service.tracing import Tracing

DESCRIPTION = "One frozen CTR backbone, one small adapter per domain, swapped while requests run."


class Routes(Protocol):
    """Some routes with what they need."""

    def register(self, app: DirectApp) -> None:
        """Add them to an app; they may stand in several."""


@dataclass(frozen=True, slots=True)
class Apps:
    """The applications of one service.

    Args:
        main: of the main port; every route, unless there is an admin port.
        admin: of the admin port, if there is one: all but scoring and feedback. Its /docs describe both.
    """

    main: FastAPI
    admin: FastAPI | None = None


def create_apps(
    replica: Replica,
    *,
    settings: Settings,
    tokens: Tokens,
    metrics: Metrics,
    log: FilteringBoundLogger,
    serving: Callable[[], bool] = lambda: True,
    feedback: Feedback = FEEDBACK_OFF,
    tracing: Tracing | None = None,
) -> Apps:
    """Build the applications, one for each port of the settings.

    Args:
        replica: opened and started by the caller, who also stops it.
        settings: limits and times.
        tokens: the bearer tokens accepted; without any, scoring is open on loopback and publishing closed.
        metrics: the replica's observer, shown by /metrics.
        log: for the audit and for failures.
        serving: whether /healthz/ready says yes.
        feedback: takes labels, and remembers responses for them.
        tracing: makes spans of requests, if it is on.
    """
    limits = RateLimits(replica.clock, metrics.registry, settings.max_items)
    guard = Guard(tokens, open_scoring=settings.loopback, limits=limits)
    health = HealthRoutes(serving)
    public = public_routes(replica, guard, settings, metrics, feedback)
    admin = admin_routes(replica, guard, settings, metrics, log)

    access = AccessLog(log, metrics.registry, share=settings.log_share, clock=replica.clock)

    def over(*routes: Routes, docs: bool = True) -> FastAPI:
        edge = partial(
            Edge,
            metrics=metrics,
            log=log,
            access=access,
            clock=replica.clock,
            header_bytes=settings.header_bytes,
            tracing=tracing,
        )
        return _app(routes, edge, docs=docs)

    whole = over(*public, *admin, health)
    describe(whole)
    if settings.admin_port is None:
        return Apps(whole)
    apart = over(*admin, health)
    apart.openapi = whole.openapi  # type: ignore[method-assign]  # FastAPI's documented way to change the description
    return Apps(over(*public, health, docs=False), apart)


def create_app(
    replica: Replica,
    *,
    settings: Settings,
    tokens: Tokens,
    metrics: Metrics,
    log: FilteringBoundLogger,
    serving: Callable[[], bool] = lambda: True,
    feedback: Feedback = FEEDBACK_OFF,
    tracing: Tracing | None = None,
) -> FastAPI:
    """The application of the main port; arguments as `create_apps`."""
    apps = create_apps(
        replica,
        settings=settings,
        tokens=tokens,
        metrics=metrics,
        log=log,
        serving=serving,
        feedback=feedback,
        tracing=tracing,
    )
    return apps.main


def public_routes(
    replica: Replica, guard: Guard, settings: Settings, metrics: Metrics, feedback: Feedback
) -> list[Routes]:
    """What a recommender asks: on the main port always."""
    score = ScoreRoute(
        replica.scorer,
        guard=guard,
        clock=replica.clock,
        metrics=metrics,
        body_bytes=settings.score_body_bytes,
        deadline_s=settings.deadline_ms / 1000,
        recent=feedback.recent,
    )
    return [_Scoring(score), FeedbackRoutes(feedback, guard, body_read_s=settings.body_read_s)]


def admin_routes(
    replica: Replica, guard: Guard, settings: Settings, metrics: Metrics, log: FilteringBoundLogger
) -> list[Routes]:
    """What publishes, reads and scrapes: on the admin port where there is one."""
    audit = AuditLog(log, partial(without_secrets, url=settings.store))
    access = Access(guard, audit)
    publish = PublishRoutes(
        replica.publisher,
        access,
        UploadGate(settings.uploads_in_flight),
        audit,
        body_bytes=settings.max_adapter_bytes,
        body_read_s=settings.body_read_s,
        wait_s=settings.publish_wait_ms / 1000,
    )
    changes = ChangeRoutes(
        replica.publisher, access, audit, body_read_s=settings.body_read_s, wait_s=settings.publish_wait_ms / 1000
    )
    return [
        publish,
        changes,
        AdapterRoutes(replica.publisher, access),
        StatsRoute(metrics, access),
        MetricsRoutes(metrics),
    ]


@dataclass(frozen=True, slots=True)
class _Scoring:
    route: ScoreRoute

    def register(self, app: DirectApp) -> None:
        # FastAPI would parse the body a second time, and ask ten layers of its own before
        app.add_direct_route("POST", "/score", self.route.score)


def _app(routes: Iterable[Routes], edge: Callable[[ASGIApp], Edge], *, docs: bool) -> FastAPI:
    app = DirectApp(
        edge,
        title="Espalier",
        description=DESCRIPTION,
        openapi_url="/openapi.json" if docs else None,
        redoc_url=None,
        redirect_slashes=False,
        # newer ones bring spans and logs of their own, which may hold a request's body; ours are service.tracing's
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    for each in routes:
        each.register(app)
    app.add_exception_handler(HTTPException, tell_problem)
    app.add_exception_handler(RequestValidationError, tell_problem)
    return app
