"""Changing what a domain is scored by: aliases, rolling back, deleting. Each change leaves an audit line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Depends, FastAPI, Query
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from adapters_store.errors import RecordConflict
from adapters_store.ids import check_domain, check_revision
from adapters_store.records import DomainRecord
from service.aliases import Aliases
from service.domains import Trial
from service.limits import read_body
from service.logs import Action, AuditLog
from service.published import Alias, Published
from service.refusals import InvalidRequest, PreconditionFailed
from service.routes.access import Access, caller_of
from service.routes.described import CONDITIONS, ETAG, json_body, problems
from service.routes.reading import Demand, decode_json, etag_of, read_demand
from service.routes.replies import AliasBody, NoQuery, PendingReply, PublishReply, RecordReply, RollbackBody
from service.routes.waiting import BoundedWait

SMALL_BODY_BYTES = 4096
REVISION_SCHEMA = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
PERCENT_SCHEMA = {
    "type": "number",
    "exclusiveMinimum": 0,
    "maximum": 100,
    "description": "share of the users (canary) or of the requests (shadow); both need it, live takes none",
}
ACTIONS: dict[Alias, Action] = {"live": "set_live", "canary": "set_canary", "shadow": "set_shadow"}
CLEARED: dict[Trial, Action] = {"canary": "clear_canary", "shadow": "clear_shadow"}
Name = TypeVar("Name", bound=str)
Result = TypeVar("Result")


class ChangeRoutes:
    """Routes that move what a record names; no artifact travels over them.

    Args:
        aliases: makes the changes.
        access: lets callers with the scope publish:<pattern> in.
        audit: told of each change and each refusal.
        body_read_s: longest a client may take to send its body.
        wait_s: longest a change waits for its activation before it answers 202.
    """

    def __init__(self, aliases: Aliases, access: Access, audit: AuditLog, *, body_read_s: float, wait_s: float) -> None:
        self._aliases = aliases
        self._access = access
        self._audit = audit
        self._body_read_s = body_read_s
        self._bounded = BoundedWait(wait_s)
        self._alias_decoder = msgspec.json.Decoder(AliasBody)
        self._rollback_decoder = msgspec.json.Decoder(RollbackBody)

    def register(self, app: FastAPI) -> None:
        """Add the routes to an app."""
        refusals = problems(400, 401, 403, 404, 408, 409, 412, 413, 422, 423, 429, 503)
        common: dict[str, Any] = {"dependencies": [Depends(self._access.publish)], "tags": ["publishing"]}
        app.add_api_route(
            "/adapters/{domain}/aliases/{alias}",
            self.set_alias,
            methods=["PUT"],
            responses={**_done(PublishReply, PublishReply), **refusals},
            openapi_extra=_takes({"revision": REVISION_SCHEMA}, percent=PERCENT_SCHEMA),
            **common,
        )
        app.add_api_route(
            "/adapters/{domain}/aliases/{alias}",
            self.clear_alias,
            methods=["DELETE"],
            response_model=RecordReply,
            responses={**_done(RecordReply, PendingReply), **problems(400, 401, 403, 404, 409, 412, 422, 423, 503)},
            openapi_extra={"parameters": CONDITIONS},
            **common,
        )
        app.add_api_route(
            "/adapters/{domain}/rollback",
            self.roll_back,
            methods=["POST"],
            response_model=RecordReply,
            responses={**_done(RecordReply, PendingReply), **refusals},
            openapi_extra=_takes({"from": REVISION_SCHEMA}),
            **common,
        )
        app.add_api_route(
            "/adapters/{domain}",
            self.delete,
            methods=["DELETE"],
            response_model=RecordReply,
            responses={**_done(RecordReply, PendingReply), **problems(400, 401, 403, 404, 409, 412, 422, 503)},
            openapi_extra={"parameters": CONDITIONS},
            **common,
        )

    async def set_alias(
        self, request: Request, response: Response, domain: str, alias: str, query: Annotated[NoQuery, Query()]
    ) -> PublishReply:
        """Let live, canary or shadow name a stored revision, after this replica has verified it.

        A canary scores `percent` of the users; while only `percent` moves, those that are in stay in as it grows.
        """
        check_domain(domain)
        named = _alias(alias, ACTIONS)
        demand = _no_create(read_demand(request.headers))
        body = decode_json(self._alias_decoder, await self._read(request))
        _check_percent(named, body.percent)
        revision = check_revision(body.revision)

        async def change() -> Published:
            facts: dict[str, Any] = {"domain": domain, "revision": revision} | (
                {} if named == "live" else {"percent": body.percent}
            )
            with self._audit.change(ACTIONS[named], **audited(request), **facts) as entry:
                by, wanted = caller_of(request).name, demand.if_generation
                setting = self._aliases.set_alias(
                    domain, named, revision, percent=body.percent, by=by, if_generation=wanted
                )
                published = await honoured(demand, setting)
                entry.moved(published.before, revision)
                entry.done(published.status, generation=published.generation)
            return published

        published = await self._bounded.within(change())
        if published is None:
            response.status_code = 202
            return PublishReply(domain=domain, revision=revision, generation=None, status="pending")
        set_etag(response, published.generation, published.pointer)
        return PublishReply.of(published)

    async def clear_alias(
        self, request: Request, response: Response, domain: str, alias: str, query: Annotated[NoQuery, Query()]
    ) -> RecordReply | Response:
        """End a canary or a shadow; what is live stays."""
        check_domain(domain)
        named = _alias(alias, CLEARED)
        demand = _no_create(read_demand(request.headers))
        change = partial(self._aliases.clear_alias, domain, named)
        return await self._recorded(request, response, demand, change, CLEARED[named], "cleared", domain, named)

    async def roll_back(
        self, request: Request, response: Response, domain: str, query: Annotated[NoQuery, Query()]
    ) -> RecordReply | Response:
        """Walk back from a revision if it is the live one, never to a revision already rolled back from."""
        check_domain(domain)
        demand = _no_create(read_demand(request.headers))
        body = decode_json(self._rollback_decoder, await self._read(request))
        revision = check_revision(body.from_)
        change = partial(self._aliases.rollback, domain, revision)
        return await self._recorded(
            request, response, demand, change, "rollback", "rolled_back", domain, revision=revision
        )

    async def delete(
        self, request: Request, response: Response, domain: str, query: Annotated[NoQuery, Query()]
    ) -> RecordReply | Response:
        """Leave a tombstone: the domain is scored without an adapter from now on; its history stays."""
        check_domain(domain)
        demand = _no_create(read_demand(request.headers))
        change = partial(self._aliases.delete, domain)
        return await self._recorded(request, response, demand, change, "delete", "deleted", domain)

    async def _recorded(
        self,
        request: Request,
        response: Response,
        demand: Demand,
        change: Callable[..., Awaitable[DomainRecord]],
        action: Action,
        outcome: str,
        domain: str,
        trial: Trial | None = None,
        **facts: str,
    ) -> RecordReply | Response:
        """Make a change within the wait, audit it, and answer with the record as it is then."""

        async def audited_change() -> tuple[DomainRecord, int]:
            with self._audit.change(action, **audited(request), domain=domain, **facts) as entry:
                before = await self._aliases.fleet()
                was = await self._aliases.recorded(domain)
                by, wanted = caller_of(request).name, demand.if_generation
                record = await honoured(demand, change(by=by, if_generation=wanted))
                live = None if record.live is None else record.live.revision
                if trial is None:
                    entry.moved(facts.get("revision") or before.live(domain, was), live)
                else:
                    entry.moved(_revision_of(was, trial), None)
                entry.done(outcome, generation=record.generation)
            # never a pointer that moved after the change: a condition on it would overlook what the move brought
            return record, max(before.pointer.generation, record.epoch)

        changed = await self._bounded.within(audited_change())
        if changed is None:
            pending = PendingReply(domain=domain).model_dump_json()
            return Response(pending, status_code=202, media_type="application/json")
        record, pointer = changed
        set_etag(response, record.generation, pointer)
        return RecordReply.of(record)

    async def _read(self, request: Request) -> bytes:
        return await read_body(request.receive, request.headers, SMALL_BODY_BYTES, self._body_read_s)


async def honoured(demand: Demand, change: Awaitable[Result]) -> Result:
    """The result of a change; a conflict under a condition of the request's own is told as a failed precondition.

    Raises:
        PreconditionFailed: If-Match or If-None-Match does not hold.
    """
    try:
        return await change
    except RecordConflict as error:
        if demand.any:
            raise
        raise PreconditionFailed(str(error)) from error


def _revision_of(record: DomainRecord | None, trial: Trial) -> str | None:
    named = None if record is None else (record.canary if trial == "canary" else record.shadow)
    return None if named is None else named.revision


def audited(request: Request) -> dict[str, str]:
    """Who asks, in which request, as an audit line names them."""
    return {"by": caller_of(request).name, "request_id": request.state.request_id}


def set_etag(response: Response, generation: int | None, pointer: int) -> None:
    """Name the domain's new state, if it has a record."""
    if generation is not None:
        response.headers["ETag"] = etag_of(generation, pointer)


def _alias(alias: str, known: Mapping[Name, Action]) -> Name:
    named = next((each for each in known if each == alias), None)
    if named is None:
        advice = "; to take live away, roll the domain back or delete it" if alias == "live" else ""
        raise InvalidRequest(f"alias {alias!r} cannot be changed so: {' or '.join(known)} can{advice}", "alias")
    return named


def _check_percent(alias: Alias, percent: float | None) -> None:
    if alias == "live" and percent is not None:
        raise InvalidRequest("percent belongs to canary and shadow; live scores everyone else", "percent")
    if alias != "live" and percent is None:
        raise InvalidRequest(f"percent is missing: which share, above 0 and up to 100, {alias} shall score", "percent")


def _no_create(demand: Demand) -> Demand:
    if demand.create_only:
        raise InvalidRequest(
            "If-None-Match: * belongs to publishing; this route changes what is there", "If-None-Match"
        )
    return demand


def _done(now: type[BaseModel], pending: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    headers = {"ETag": {"schema": {"type": "string"}, **ETAG}}
    return {
        200: {"description": "done, on every worker of this replica", "model": now, "headers": headers},
        202: {"description": "accepted, not active everywhere here yet", "model": pending},
    }


def _takes(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": list(required),
        "additionalProperties": False,
        "properties": required | optional,
    }
    return {"parameters": CONDITIONS, "requestBody": json_body(schema)}
