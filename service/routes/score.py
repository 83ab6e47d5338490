"""POST /score, the main path: nothing stands between the bytes and the scorer."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from service.account import Account
from service.auth import Guard, Scope
from service.clock import Clock
from service.errors import DeadlineExceeded
from service.feedback.matching import RecentResponses
from service.ladder import Alias, Fallback
from service.limits import read_body
from service.metrics import Metrics
from service.routes.forms import Form, Forms
from service.routes.reading import read_deadline_s
from service.scorer import Scorer, ScoreRequest, ScoreResult, Served

SCORE = Scope("score")
# what an index of integers holds; a larger id is sent as a string
Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
# Python's `$` would let a newline follow
DomainId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_:=.-]{0,127}$(?!\n)")]
Value = str | int | float | bool | None


class ScoreBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """One user, one domain, a list of items. An integer id equals its decimal string."""

    user_id: str | Integer
    domain_id: DomainId
    item_ids: list[str | Integer]
    context: dict[str, Any] | None = None
    strict: bool = False
    min_generation: Annotated[int, Meta(ge=0)] | None = None


class ScoreBodyMsgpack(ScoreBody, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The same in MessagePack, where a context holds plain values and lists of them: bytes and dates have no JSON."""

    context: dict[str, Value | list[Value]] | None = None


class ServedReply(msgspec.Struct, frozen=True):
    """Exactly what scored."""

    backbone: str
    revision: str | None
    alias: Alias | None
    generation: int | None
    fuses: dict[str, str]
    features: dict[str, str]
    fallback: Fallback | None


class ScoreReply(msgspec.Struct, frozen=True):
    """Probabilities in the order of item_ids, and what scored them."""

    scores: list[float]
    domain_id: str
    served: ServedReply
    unknown_user: bool
    unknown_items: list[int]
    request_id: str


class ScoreRoute:
    """Reads the request, asks the scorer, writes the reply.

    Args:
        scorer: the core.
        guard: decides who may score.
        clock: the one that deadlines are counted by.
        metrics: told of rows and of the time that reading and writing bodies takes.
        body_bytes: largest body.
        deadline_s: longest a request may take.
        recent: remembers responses for the feedback that follows; None where feedback is off.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        guard: Guard,
        clock: Clock,
        metrics: Metrics,
        body_bytes: int,
        deadline_s: float,
        recent: RecentResponses | None = None,
    ) -> None:
        self._scorer = scorer
        self._guard = guard
        self._clock = clock
        self._metrics = metrics
        self._body_bytes = body_bytes
        self._deadline_s = deadline_s
        self._recent = recent
        self._forms = Forms[ScoreBody](ScoreBody, ScoreBodyMsgpack)

    async def score(self, request: Request) -> Response:
        """Score one request, or say in a problem why not; never late, never in part."""
        arrived = self._clock.now()
        account: Account = request.state.account
        caller = self._guard.authorize(request.headers.get("authorization"), SCORE)
        account.by = caller.name
        allowed_s = read_deadline_s(request.headers, self._deadline_s)
        form = self._forms.of_body(request.headers.get("content-type"))
        raw = await read_body(request.receive, request.headers, self._body_bytes, allowed_s)
        started = self._clock.now()
        body = form.decode(raw)
        account.domain = body.domain_id
        self._guard.admit_rows(caller, len(body.item_ids))
        parsed = self._clock.now()
        self._metrics.stage("parse", parsed - started)
        account.stage("parse", started, parsed)
        deadline = arrived + allowed_s
        result = await self._scorer.score(
            ScoreRequest(
                user_id=body.user_id,
                domain_id=body.domain_id,
                item_ids=body.item_ids,
                context=body.context,
                strict=body.strict,
                min_generation=body.min_generation,
                request_id=request.state.request_id,
                deadline=deadline,
                account=account,
            )
        )
        reply = self._reply(result, self._forms.of_answer(request.headers.get("accept"), form), deadline, account)
        if self._recent is not None:
            self._recent.remember(result, body.user_id, body.item_ids, body.context, len(raw))
        return reply

    def _reply(self, result: ScoreResult, form: Form[ScoreBody], deadline: float, account: Account) -> Response:
        started = self._clock.now()
        content = form.encode(reply_of(result))
        finished = self._clock.now()
        if finished > deadline:
            self._metrics.deadline_missed("reply")
            raise DeadlineExceeded("before the reply was written")
        self._metrics.stage("encode", finished - started)
        account.stage("encode", started, finished)
        _note(result, account)
        self._metrics.rows(len(result.scores))
        return Response(content, media_type=form.media_type)


def _note(result: ScoreResult, account: Account) -> None:
    served = result.served
    account.rows = len(result.scores)
    account.backbone, account.revision, account.alias = served.backbone, served.revision, served.alias
    account.generation, account.fallback = served.generation, served.fallback


def reply_of(result: ScoreResult) -> ScoreReply:
    """The reply to a result; scores keep every digit, so that a client can compare them with an oracle."""
    return ScoreReply(
        scores=result.scores.tolist(),
        domain_id=result.domain_id,
        served=_served(result.served),
        unknown_user=result.unknown_user,
        unknown_items=list(result.unknown_items),
        request_id=result.request_id,
    )


def _served(served: Served) -> ServedReply:
    return ServedReply(
        backbone=served.backbone,
        revision=served.revision,
        alias=served.alias,
        generation=served.generation,
        fuses=dict(served.fuses),
        features=dict(served.features),
        fallback=served.fallback,
    )
