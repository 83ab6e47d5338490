"""What an answer leads to: OpenAPI links, so that a tool can walk from one operation to the next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DOMAIN = "$request.path.domain"


@dataclass(frozen=True)
class Link:
    """One step from an answer to the next request.

    Args:
        source: method and path of the operation that answered.
        status: of its answer.
        target: method and path of the operation that comes next.
        parameters: its path parameters, each an OpenAPI runtime expression.
        body: its request body, of expressions and constants; None where it takes none.
    """

    source: tuple[str, str]
    status: str
    target: tuple[str, str]
    parameters: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = None


_ONE, _REVISIONS, _STATS = "/adapters/{domain}", "/adapters/{domain}/revisions", "/adapters/{domain}/stats"
_REVISION, _ALIAS = "/adapters/{domain}/revisions/{revision}", "/adapters/{domain}/aliases/{alias}"
_ROLLBACK = "/adapters/{domain}/rollback"
_LISTED, _SCORED = {"domain": "$response.body#/adapters/0/domain"}, {"domain": "$response.body#/domain_id"}
_NAMED = {"domain": DOMAIN, "revision": "$response.body#/revisions/0/revision"}
_FIRST = "$response.body#/revisions/0/revision"

LINKS = (
    Link(("get", "/adapters"), "200", ("get", _ONE), _LISTED),
    Link(("get", "/adapters"), "200", ("get", _REVISIONS), _LISTED),
    Link(("get", "/adapters"), "200", ("get", _STATS), _LISTED),
    Link(("get", _REVISIONS), "200", ("get", _REVISION), _NAMED),
    Link(("get", _REVISIONS), "200", ("put", _ALIAS), {"domain": DOMAIN, "alias": "live"}, {"revision": _FIRST}),
    Link(
        ("get", _REVISIONS),
        "200",
        ("put", _ALIAS),
        {"domain": DOMAIN, "alias": "canary"},
        {"revision": _FIRST, "percent": 5},
    ),
    Link(("get", _REVISIONS), "200", ("post", _ROLLBACK), {"domain": DOMAIN}, {"from": _FIRST}),
    Link(("put", _ALIAS), "200", ("get", _ONE), {"domain": DOMAIN}),
    Link(("put", _ALIAS), "200", ("delete", _ALIAS), {"domain": DOMAIN, "alias": "$request.path.alias"}),
    Link(("delete", _ALIAS), "200", ("get", _ONE), {"domain": DOMAIN}),
    Link(("post", _ROLLBACK), "200", ("get", _ONE), {"domain": DOMAIN}),
    Link(("delete", _ONE), "200", ("get", _ONE), {"domain": DOMAIN}),
    Link(("post", _ONE), "201", ("get", _REVISION), {"domain": DOMAIN, "revision": "$response.body#/revision"}),
    Link(("post", "/score"), "200", ("get", _ONE), _SCORED),
    Link(("post", "/score"), "200", ("get", _STATS), _SCORED),
    Link(
        ("post", "/score"),
        "200",
        ("post", "/feedback"),
        {},
        {"events": [{"request_id": "$response.body#/request_id", "item_id": "0", "label": 1}]},
    ),
)


def link(paths: dict[str, Any]) -> None:
    """Add the links to a description's paths, where it has both ends."""
    for one in LINKS:
        source, target = (paths.get(path, {}).get(method) for method, path in (one.source, one.target))
        if source is None or target is None or one.status not in source["responses"]:
            continue
        described: dict[str, Any] = {"operationId": target["operationId"]}
        if one.parameters:
            described["parameters"] = one.parameters
        if one.body is not None:
            described["requestBody"] = one.body
        links = source["responses"][one.status].setdefault("links", {})
        links[_name(one, links)] = described


def _name(one: Link, taken: dict[str, Any]) -> str:
    """Unlike every other link of the answer: the target, numbered where it comes twice."""
    method, path = one.target
    words = [part for part in path.split("/") if part and not part.startswith("{")]
    name = "_".join([method, *words])
    return name if name not in taken else f"{name}_{len(taken)}"
