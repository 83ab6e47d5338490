"""Routes that are answered beside FastAPI, so that nothing stands between the server and their own code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]


class DirectApp(FastAPI):
    """FastAPI within the edge, and routes that go from the edge to their endpoint directly.

    FastAPI puts some ten layers around a route: telemetry, limits and error pages that the service switches off or has
    of its own, a stack of files to close, and a search through all routes. A route that reads its own body and leaves
    its errors to the edge needs none of them.

    Args:
        edge: put around whatever answers; turns every error into a problem.
        given: as FastAPI takes it.
    """

    def __init__(self, edge: Callable[[ASGIApp], ASGIApp], **given: Any) -> None:
        super().__init__(**given)
        self._edge = edge
        self._direct: dict[tuple[str, str], ASGIApp] = {}
        self.add_middleware(edge)

    def add_direct_route(self, method: str, path: str, endpoint: Endpoint) -> None:
        """Add a route that is answered directly where a request has exactly this method and path.

        It is a route of FastAPI too, by which other methods are refused.

        Args:
            method: of HTTP.
            path: without parameters.
            endpoint: answers; what it raises is the edge's to tell.
        """
        self.add_route(path, endpoint, methods=[method], include_in_schema=False)
        self._direct[method, path] = self._edge(_Direct(path, endpoint))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        direct = self._direct.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if direct is not None:
            await direct(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class _Direct:
    """One endpoint as an application of its own.

    Args:
        path: by which it is counted and logged.
        endpoint: answers.
    """

    def __init__(self, path: str, endpoint: Endpoint) -> None:
        self.path = path
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = self  # as FastAPI leaves its own routes there
        response = await self._endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
