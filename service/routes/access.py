"""Authorization as the first thing that a FastAPI route does, before its parameters and its body are looked at."""

from __future__ import annotations

from starlette.requests import Request

from service.auth import Caller, Guard, Scope
from service.logs import AuditLog
from service.refusals import Forbidden

READ = Scope("read")


class Access:
    """Dependencies for routes; each leaves the caller in `request.state.caller`.

    Args:
        guard: decides.
        audit: told of who may not change what it wanted to change.
    """

    def __init__(self, guard: Guard, audit: AuditLog) -> None:
        self._guard = guard
        self._audit = audit

    async def read(self, request: Request) -> None:
        """The caller may read adapters."""
        self._let_in(request, READ)

    async def publish(self, request: Request) -> None:
        """The caller may publish to the domain of the path; without one (a fusion, shared by all), to every domain."""
        domain = request.path_params.get("domain")
        try:
            self._let_in(request, Scope("publish", domain or "*"))
        except Forbidden as error:
            named = {} if domain is None else {"domain": domain}
            self._audit.denied(by=error.by, reason=str(error), request_id=request.state.request_id, **named)
            raise

    def _let_in(self, request: Request, wanted: Scope) -> None:
        request.state.caller = self._guard.authorize(request.headers.get("authorization"), wanted)


def caller_of(request: Request) -> Caller:
    """Who was let in."""
    caller: Caller = request.state.caller
    return caller
