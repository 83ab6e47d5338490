"""POST /adapters/{domain} and POST /fusions: an artifact comes in, is verified, stored and made live."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query
from starlette.requests import Request
from starlette.responses import Response

from adapters_store.ids import check_domain
from service.limits import UploadGate, read_body
from service.logs import AuditLog
from service.published import Published
from service.publisher import Publisher
from service.refusals import InvalidRequest
from service.routes.access import Access, caller_of
from service.routes.changes import audited, honoured, set_etag
from service.routes.described import CONDITIONS, CONTENT_DIGEST, CREATE_ONLY, ETAG, artifact_body, problems
from service.routes.reading import Demand, claimed_digest, read_demand
from service.routes.replies import FusionQuery, FusionReply, PublishQuery, PublishReply
from service.routes.waiting import BoundedWait

REFUSALS = (400, 401, 403, 408, 409, 412, 413, 422, 423, 429, 503)
STATUS = {"created": 201, "stored": 201, "unchanged": 200, "verified": 200}


class PublishRoutes:
    """The routes that take artifacts.

    Args:
        publisher: verifies, stores, activates.
        access: lets callers with the scope publish:<pattern> in, before a byte of the body is read.
        gate: bounds the uploads in flight.
        audit: told of each publish and each refusal.
        body_bytes: largest artifact.
        body_read_s: longest a client may take to send it.
        wait_s: longest a publish waits for its activation before it answers 202.
    """

    def __init__(
        self,
        publisher: Publisher,
        access: Access,
        gate: UploadGate,
        audit: AuditLog,
        *,
        body_bytes: int,
        body_read_s: float,
        wait_s: float,
    ) -> None:
        self._publisher = publisher
        self._access = access
        self._gate = gate
        self._audit = audit
        self._body_bytes = body_bytes
        self._body_read_s = body_read_s
        self._bounded = BoundedWait(wait_s)

    def register(self, app: FastAPI) -> None:
        """Add the routes to an app."""
        access = [Depends(self._access.publish)]
        app.add_api_route(
            "/adapters/{domain}",
            self.adapter,
            methods=["POST"],
            status_code=201,
            dependencies=access,
            responses={**_done(), **problems(*REFUSALS)},
            openapi_extra={
                "parameters": [*CONDITIONS, CREATE_ONLY, CONTENT_DIGEST],
                "requestBody": artifact_body("the adapter: one safetensors file"),
            },
            tags=["publishing"],
        )
        app.add_api_route(
            "/fusions",
            self.fusion,
            methods=["POST"],
            status_code=201,
            dependencies=access,
            responses=problems(*REFUSALS),
            openapi_extra={
                "parameters": [CONTENT_DIGEST],
                "requestBody": artifact_body("the fusion: one safetensors file"),
            },
            tags=["publishing"],
        )

    async def adapter(
        self, request: Request, response: Response, domain: str, query: Annotated[PublishQuery, Query()]
    ) -> PublishReply:
        """Publish an adapter: verify it, store it, make it live. After a 201 the next score uses it."""
        check_domain(domain)
        claimed = claimed_digest(query.revision, request.headers)
        demand = read_demand(request.headers)
        with ExitStack() as place:
            place.enter_context(self._gate.upload())
            body = await self._read(request)
            let_go = place.pop_all().close
        change = self._publish(request, domain, body, claimed, demand, query, let_go)
        del body  # the change lets go of it before it waits for the other workers
        published = await self._bounded.within(change, let_go)
        if published is None:
            response.status_code = 202
            return PublishReply(domain=domain, revision=claimed, generation=None, status="pending")
        response.status_code = STATUS[published.status]
        set_etag(response, published.generation, published.pointer)
        return PublishReply.of(published)

    async def fusion(self, request: Request, response: Response, query: Annotated[FusionQuery, Query()]) -> FusionReply:
        """Publish a fusion for adapters to pin; nothing becomes live by it."""
        claimed = claimed_digest(query.revision, request.headers)
        _no_condition(read_demand(request.headers))
        with self._gate.upload(), self._audit.change("publish_fusion", **audited(request), revision=claimed) as entry:
            body = await self._read(request)
            by = caller_of(request).name
            published = await self._publisher.publish_fusion(body, claimed_digest=claimed, by=by)
            entry.done(published.status)
        response.status_code = STATUS[published.status]
        return FusionReply(revision=published.revision, status=published.status)

    async def _read(self, request: Request) -> bytes:
        return await read_body(request.receive, request.headers, self._body_bytes, self._body_read_s, reserve=True)

    async def _publish(
        self,
        request: Request,
        domain: str,
        body: bytes,
        claimed: str,
        demand: Demand,
        query: PublishQuery,
        landed: Callable[[], None],
    ) -> Published:
        with self._audit.change("publish", **audited(request), domain=domain, revision=claimed) as entry:
            change = self._publisher.publish(
                domain,
                body,
                claimed_digest=claimed,
                by=caller_of(request).name,
                if_generation=demand.if_generation,
                create_only=demand.create_only,
                activate=query.activate,
                dry_run=query.dry_run,
                landed=landed,
            )
            del body
            published = await honoured(demand, change)
            if published.status in ("created", "unchanged"):
                entry.moved(published.before, published.revision)
            entry.done(published.status, generation=published.generation)
        return published


def _no_condition(demand: Demand) -> None:
    if not demand.any:
        raise InvalidRequest(
            "a fusion is stored under its digest and belongs to no domain: send it without If-Match and If-None-Match",
            "If-Match" if demand.if_generation is not None else "If-None-Match",
        )


def _done() -> dict[int | str, dict[str, Any]]:
    headers = {"ETag": {"schema": {"type": "string"}, **ETAG}}
    said = {
        200: "already live, or verified only",
        201: "live on this replica, or stored",
        202: "accepted, not active here yet",
    }
    return {status: {"description": text, "model": PublishReply, "headers": headers} for status, text in said.items()}
