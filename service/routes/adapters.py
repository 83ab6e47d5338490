"""Reading adapters: what the store records and what this replica serves."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, Query
from starlette.responses import Response

from adapters_store.errors import DomainUnknown, MalformedRecord
from adapters_store.ids import check_domain, check_revision
from service.catalog import Catalog, DomainState
from service.routes.access import Access
from service.routes.described import problems
from service.routes.reading import etag_of
from service.routes.replies import (
    AdapterList,
    DomainReply,
    ListedReply,
    ManifestReply,
    NoQuery,
    PageQuery,
    RevisionList,
)


class AdapterRoutes:
    """GET routes below /adapters.

    Args:
        catalog: knows records and residents.
        access: lets callers with the scope read in.
    """

    def __init__(self, catalog: Catalog, access: Access) -> None:
        self._catalog = catalog
        self._access = access

    def register(self, app: FastAPI) -> None:
        """Add the routes to an app."""
        read = [Depends(self._access.read)]
        one = problems(401, 403, 404, 422, 503)
        app.add_api_route(
            "/adapters",
            self.page,
            methods=["GET"],
            dependencies=read,
            responses=problems(401, 403, 422, 503),
            tags=["adapters"],
        )
        app.add_api_route(
            "/adapters/{domain}", self.domain, methods=["GET"], dependencies=read, responses=one, tags=["adapters"]
        )
        app.add_api_route(
            "/adapters/{domain}/revisions",
            self.revisions,
            methods=["GET"],
            dependencies=read,
            responses=one,
            tags=["adapters"],
        )
        app.add_api_route(
            "/adapters/{domain}/revisions/{revision}",
            self.revision,
            methods=["GET"],
            dependencies=read,
            responses=one,
            tags=["adapters"],
        )

    async def page(self, query: Annotated[PageQuery, Query()]) -> AdapterList:
        """List domains in order of their ids, tombstones included."""
        after = check_domain(query.after) if query.after else ""
        listed = await self._catalog.listing(after, query.limit + 1)
        shown = listed[: query.limit]
        more = len(listed) > query.limit
        return AdapterList(
            adapters=[ListedReply.of_listed(one) for one in shown], next=shown[-1].domain if more else None
        )

    async def domain(self, domain: str, response: Response, query: Annotated[NoQuery, Query()]) -> DomainReply:
        """Show a domain: its record, what this replica scores it with, and what it refused."""
        state = await self._catalog.state(check_domain(domain))
        _set_etag(response, state)
        return DomainReply.of_state(state)

    async def revisions(self, domain: str, response: Response, query: Annotated[NoQuery, Query()]) -> RevisionList:
        """List the revisions that a domain names: what scores, canary, shadow, then those before."""
        state = await self._catalog.state(check_domain(domain))
        if state.fault is not None:
            raise MalformedRecord(state.fault)
        if state.record is None and state.live is None:
            raise DomainUnknown(f"nothing was ever published for domain {domain!r}")
        _set_etag(response, state)
        return RevisionList.of(state)

    async def revision(
        self, domain: str, revision: str, response: Response, query: Annotated[NoQuery, Query()]
    ) -> ManifestReply:
        """Show the manifest of a stored revision."""
        manifest = await self._catalog.manifest(check_domain(domain), check_revision(revision))
        response.headers["ETag"] = f'"{revision}"'
        return ManifestReply(domain=domain, revision=revision, manifest=manifest.model_dump(mode="json"))


def _set_etag(response: Response, state: DomainState) -> None:
    if state.record is not None and state.fault is None:
        response.headers["ETag"] = etag_of(state.record.generation, state.pointer)
