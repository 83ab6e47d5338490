"""Changing what a domain is scored by: publish, set live, roll back, delete. Each change leaves an audit line."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Depends, FastAPI, Query
from starlette.requests import Request
from starlette.responses import Response

from adapters_store.errors import RecordConflict
from adapters_store.ids import check_domain, check_revision
from service.limits import read_body
from service.logs import AuditLog
from service.publisher import Publisher
from service.refusals import InvalidRequest, PreconditionFailed
from service.routes.access import Access, caller_of
from service.routes.described import CONDITIONS, json_body, problems
from service.routes.reading import Condition, decode_json, etag_of, read_condition
from service.routes.replies import AliasBody, NoQuery, PublishReply, RecordReply, RollbackBody

SMALL_BODY_BYTES = 4096
REVISION_SCHEMA = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
Result = TypeVar("Result")


class ChangeRoutes:
    """Routes that move what a record names; no artifact travels over them.

    Args:
        publisher: makes the changes.
        access: lets callers with the scope publish:<pattern> in.
        audit: told of each change and each refusal.
        body_read_s: longest a client may take to send its body.
    """

    def __init__(self, publisher: Publisher, access: Access, audit: AuditLog, *, body_read_s: float) -> None:
        self._publisher = publisher
        self._access = access
        self._audit = audit
        self._body_read_s = body_read_s
        self._alias_decoder = msgspec.json.Decoder(AliasBody)
        self._rollback_decoder = msgspec.json.Decoder(RollbackBody)

    def register(self, app: FastAPI) -> None:
        """Add the routes to an app."""
        common: dict[str, Any] = {"dependencies": [Depends(self._access.publish)], "tags": ["publishing"]}
        app.add_api_route(
            "/adapters/{domain}/aliases/{alias}",
            self.set_alias,
            methods=["PUT"],
            responses=problems(400, 401, 403, 404, 408, 409, 412, 413, 422, 503),
            openapi_extra=_takes("revision"),
            **common,
        )
        app.add_api_route(
            "/adapters/{domain}/rollback",
            self.roll_back,
            methods=["POST"],
            responses=problems(400, 401, 403, 404, 408, 409, 412, 413, 422, 503),
            openapi_extra=_takes("from"),
            **common,
        )
        app.add_api_route(
            "/adapters/{domain}",
            self.delete,
            methods=["DELETE"],
            responses=problems(400, 401, 403, 404, 409, 412, 422, 503),
            openapi_extra={"parameters": CONDITIONS},
            **common,
        )

    async def set_alias(
        self, request: Request, response: Response, domain: str, alias: str, query: Annotated[NoQuery, Query()]
    ) -> PublishReply:
        """Make a stored revision live, after this replica has verified it."""
        check_domain(domain)
        if alias != "live":
            raise InvalidRequest(f"alias {alias!r} cannot be set: `live` can; canary and shadow come later", "alias")
        condition = _no_create(read_condition(request.headers))
        body = decode_json(self._alias_decoder, await self._read(request))
        revision = check_revision(body.revision)
        by = caller_of(request).name
        with self._audit.change("set_live", **audited(request), domain=domain, revision=revision) as entry:
            change = self._publisher.set_live(domain, revision, by=by, if_generation=condition.if_generation)
            published = await honoured(condition, change)
            entry.done(published.status, generation=published.generation)
        set_etag(response, published.generation)
        return PublishReply.of(published)

    async def roll_back(
        self, request: Request, response: Response, domain: str, query: Annotated[NoQuery, Query()]
    ) -> RecordReply:
        """Walk back from a revision if it is the live one, never to a revision already rolled back from."""
        check_domain(domain)
        condition = _no_create(read_condition(request.headers))
        body = decode_json(self._rollback_decoder, await self._read(request))
        revision = check_revision(body.from_)
        by = caller_of(request).name
        with self._audit.change("rollback", **audited(request), domain=domain, from_revision=revision) as entry:
            change = self._publisher.rollback(domain, revision, by=by, if_generation=condition.if_generation)
            record = await honoured(condition, change)
            live = None if record.live is None else record.live.revision
            entry.done("rolled_back", revision=live, generation=record.generation)
        set_etag(response, record.generation)
        return RecordReply.of(record)

    async def delete(
        self, request: Request, response: Response, domain: str, query: Annotated[NoQuery, Query()]
    ) -> RecordReply:
        """Leave a tombstone: the domain is scored without an adapter from now on; its history stays."""
        check_domain(domain)
        condition = _no_create(read_condition(request.headers))
        by = caller_of(request).name
        with self._audit.change("delete", **audited(request), domain=domain) as entry:
            change = self._publisher.delete(domain, by=by, if_generation=condition.if_generation)
            record = await honoured(condition, change)
            entry.done("deleted", generation=record.generation)
        set_etag(response, record.generation)
        return RecordReply.of(record)

    async def _read(self, request: Request) -> bytes:
        return await read_body(request.receive, request.headers, SMALL_BODY_BYTES, self._body_read_s)


async def honoured(condition: Condition, change: Awaitable[Result]) -> Result:
    """The result of a change; a conflict under a condition of the request's own is told as a failed precondition.

    Raises:
        PreconditionFailed: If-Match or If-None-Match does not hold.
    """
    try:
        return await change
    except RecordConflict as error:
        if condition.any:
            raise
        raise PreconditionFailed(str(error)) from error


def audited(request: Request) -> dict[str, str]:
    """Who asks, in which request, as an audit line names them."""
    return {"by": caller_of(request).name, "request_id": request.state.request_id}


def set_etag(response: Response, generation: int | None) -> None:
    """Name the record's new state, if it has a record."""
    if generation is not None:
        response.headers["ETag"] = etag_of(generation)


def _no_create(condition: Condition) -> Condition:
    if condition.create_only:
        raise InvalidRequest(
            "If-None-Match: * belongs to publishing; this route changes what is there", "If-None-Match"
        )
    return condition


def _takes(key: str) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": [key],
        "additionalProperties": False,
        "properties": {key: REVISION_SCHEMA},
    }
    return {"parameters": CONDITIONS, "requestBody": json_body(schema)}
