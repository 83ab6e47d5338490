"""The outermost layer of the app: request ids, errors as problems, counts, a line or a trace of the request, and a
clean end for refused bodies."""

from __future__ import annotations

import asyncio
import re
import uuid
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from service.access_log import AccessLog
from service.account import Account
from service.clock import Clock
from service.metrics import Metrics
from service.problems import problem_of, problem_response
from service.refusals import ClientGone, HeadersTooLarge
from service.tracing import TRACEPARENT, RequestSpan, Tracing

REQUEST_ID = "X-Request-Id"
CLIENT_GONE_STATUS = 499
# an id is logged and answered; one of our tokens in the place of an id is neither
_SANE_ID = re.compile(r"(?!esp_)[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")


class Edge:
    """Pure ASGI, so that a response passes through untouched.

    Args:
        app: what answers.
        metrics: counts each request by route and status.
        log: told of errors that nobody expected.
        access: writes a line of some requests.
        clock: by which requests are timed; that of their stages too.
        header_bytes: most bytes of path, query and headers.
        tracing: makes spans, if it is on.
        linger_s: how long the body of a refused request is still taken and dropped; a connection closed with unread
            bytes is reset, and the client might never see why it was refused.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        log: FilteringBoundLogger,
        access: AccessLog,
        clock: Clock,
        header_bytes: int,
        tracing: Tracing | None = None,
        linger_s: float = 2.0,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log
        self._access = access
        self._clock = clock
        self._tracing = tracing
        self._header_bytes = header_bytes
        self._linger_s = linger_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens inside."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self._linger_s)
        began = self._clock.now()
        span = None if self._tracing is None else self._tracing.begin(exchange.headers, began)
        if span is not None:
            exchange.carried[TRACEPARENT] = span.traceparent
        try:
            self._refuse_large_headers(scope)
            await self._app(scope, exchange.receive, exchange.send)
        except ClientGone:
            exchange.status = CLIENT_GONE_STATUS
        except Exception as error:
            await self._tell(exchange, scope, error)
        finally:
            self._tell_answered(exchange, scope, began, span)

    def _tell_answered(self, exchange: Exchange, scope: Scope, began: float, span: RequestSpan | None) -> None:
        ended = self._clock.now()
        route, status = _route_of(scope), exchange.status
        self._metrics.request(route, status, ended - began)
        account, caller = exchange.account, scope["state"].get("caller")
        if account.by is None and caller is not None:
            account.by = caller.name
        if self._access.wants(status):
            self._access.tell(
                route=route,
                method=scope["method"],
                status=status,
                seconds=ended - began,
                request_id=exchange.request_id,
                account=account,
                trace_id=None if span is None else span.trace_id,
            )
        if span is not None:
            span.end(
                route=route,
                method=scope["method"],
                status=status,
                request_id=exchange.request_id,
                account=account,
                ended=ended,
            )

    def _refuse_large_headers(self, scope: Scope) -> None:
        size_bytes = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        size_bytes += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        if size_bytes > self._header_bytes:
            raise HeadersTooLarge(f"path, query and headers take {size_bytes} bytes, at most {self._header_bytes}")

    async def _tell(self, exchange: Exchange, scope: Scope, error: Exception) -> None:
        problem = problem_of(error)
        exchange.account.error = type(error).__name__
        if problem.status == 500:
            self._log.error("failed", route=_route_of(scope), request_id=exchange.request_id, exc_info=error)
        if exchange.status:
            # part of a response has left; only cutting the connection tells the client that it is not whole
            raise error
        response = problem_response(problem, exchange.request_id)
        _release(error)
        await response(scope, exchange.receive, exchange.send)


class Exchange:
    """One request and its response, watched on the way.

    Args:
        scope: of the request; its state gets `request_id` and `account`.
        receive: the server's channel.
        send: the server's channel.
        linger_s: see `Edge`.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, linger_s: float) -> None:
        self.headers = headers = Headers(scope=scope)
        self.request_id = _request_id(headers.get(REQUEST_ID))
        self.status = 0
        self.account = Account()
        self.carried = {REQUEST_ID: self.request_id}  # headers of the answer
        state = scope.setdefault("state", {})
        state["request_id"], state["account"] = self.request_id, self.account
        self._unread = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        self._receive = receive
        self._send = send
        self._linger_s = linger_s

    async def receive(self) -> Message:
        """Pass a message to the app, noting when the body is complete."""
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        """Pass a message to the server; a refusal is held open until the client had its chance to read it."""
        refused_early = self._unread and (self.status or message.get("status", 0)) >= 400
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers.update(self.carried)
            if refused_early:
                headers["Connection"] = "close"
        elif refused_early and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _linger(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._linger_s):
                while self._unread:
                    await self.receive()


async def tell_problem(request: Request, error: Exception) -> Response:
    """FastAPI's hook for errors that it raises itself: unknown routes, wrong methods, bad parameters."""
    return problem_response(problem_of(error), request.state.request_id)


def _release(error: BaseException | None) -> None:
    """Let go of what an error's frames hold. A task, its error and the frames that awaited it form a circle, which
    would keep an uploaded body in memory until the garbage collector comes round."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _request_id(given: str | None) -> str:
    return given if given is not None and _SANE_ID.fullmatch(given) else uuid.uuid4().hex


def _route_of(scope: Scope) -> str:
    """The template of the route that answered, so that labels stay as few as the routes."""
    if "route" in scope:
        return str(scope["route"].path)
    # FastAPI names its own routes in the scope; of a plain Starlette route, such as /score, only the endpoint
    endpoint = scope.get("endpoint")
    routes = scope["app"].routes if endpoint is not None else []
    return next((route.path for route in routes if getattr(route, "endpoint", None) == endpoint), "unmatched")
