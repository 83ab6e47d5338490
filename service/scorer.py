"""Score requests: ids -> rows -> lease -> batcher -> probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store.ids import check_domain
from service.account import Account
from service.batcher import Batcher
from service.clock import Clock
from service.domains import Domains
from service.engine import Segment
from service.errors import DeadlineExceeded, EngineFailed, TooManyItems, Unavailable, UnknownDomain, UnknownEntities
from service.ladder import Admission, Alias, Asked, Fallback, Ladder
from service.loader import Loader
from service.observer import Observer, Stage
from service.precedence import Precedence
from service.segments import in_order, probability
from service.shadow import ShadowRun, Shadows

__all__ = ["Fallback", "ScoreRequest", "ScoreResult", "Scorer", "Served"]


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One user, one natural domain, a list of items.

    Args:
        user_id: raw id; an integer equals its decimal string.
        domain_id: a domain of the natural division, as given, never inferred.
        item_ids: raw ids in the order in which scores are returned.
        deadline: `Clock.now()` seconds after which no result is returned.
        request_id: echoed in the result.
        context: values of the `of: context` fields by name; a missing one is out of vocabulary.
        strict: refuse rather than fall back.
        min_generation: the oldest generation of the domain's record that may score as live.
        account: told of the time in each stage, for the request's log line and spans.
    """

    user_id: str | int
    domain_id: str
    item_ids: Sequence[str | int]
    deadline: float
    request_id: str = ""
    context: Mapping[str, Any] | None = None
    strict: bool = False
    min_generation: int | None = None
    account: Account | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """Exactly what scored a response.

    Args:
        backbone: the bundle's revision.
        revision: the natural adapter's revision; None when none scored (auxiliary_only or backbone).
        alias: `live`, `canary` or `previous`, the place of that revision in the domain's record or the release; None
            when none scored.
        generation: of the domain's record as this replica applied it; None when the domain has no record.
        fuses: auxiliary domain -> revision, the pins of the revision (auxiliary_only: the live revisions that scored).
        features: `users` and `items` -> revision of the feature table.
        fallback: why the live revision did not score; None when it, or the canary, did.
    """

    backbone: str
    revision: str | None
    alias: Alias | None
    generation: int | None
    fuses: Mapping[str, str]
    features: Mapping[str, str]
    fallback: Fallback | None


@dataclass(frozen=True, slots=True, eq=False)
class ScoreResult:
    """Scores of one request.

    Args:
        scores: probabilities, float64 (n,), in the order of item_ids.
        domain_id: as asked.
        served: what scored.
        unknown_user: the user was scored as out of vocabulary.
        request_id: as asked.
        unknown_items: positions in item_ids that were.
    """

    scores: NDArray[np.float64]
    domain_id: str
    served: Served
    unknown_user: bool
    request_id: str
    unknown_items: Sequence[int] = field(default_factory=tuple)


class Scorer:
    """The main path; `score` reads top to bottom.

    Args:
        ladder: admits and leases.
        batcher: in front of the engine.
        shadows: what is scored beside, for comparison.
        domains: told of a slot that gave a non-finite logit.
        loader: then looks for another revision.
        clock: in which deadlines are given.
        observer: told of stages and fallbacks.
        precedence: told that a request is being answered.
        max_items: items of one request at most.
    """

    def __init__(
        self,
        ladder: Ladder,
        batcher: Batcher,
        shadows: Shadows,
        domains: Domains,
        loader: Loader,
        clock: Clock,
        observer: Observer,
        *,
        precedence: Precedence,
        max_items: int,
    ) -> None:
        self._ladder = ladder
        self._batcher = batcher
        self._shadows = shadows
        self._domains = domains
        self._loader = loader
        self._clock = clock
        self._observer = observer
        self._precedence = precedence
        self._max_items = max_items

    async def score(self, request: ScoreRequest) -> ScoreResult:
        """Score one request; loads in the background give way to it.

        Raises:
            TooManyItems: more items than one request may carry.
            adapters_store.errors.BadId: domain_id is no domain id.
            InvalidContext: a context value that its field cannot take.
            AuxiliaryDomain: the domain belongs to an auxiliary division.
            UnknownDomain: strict, and nobody knows the domain.
            UnknownEntities: strict, and the user or an item is unknown.
            Unavailable: strict, and only a fallback could score.
            QueueFull: the batcher has no room.
            DeadlineExceeded: the deadline passed first.
            EngineFailed: the engine failed, or the backbone itself gave a non-finite logit.
        """
        with self._precedence.answering():
            return await self._score(request)

    async def _score(self, request: ScoreRequest) -> ScoreResult:
        started = self._clock.now()
        if len(request.item_ids) > self._max_items:
            raise TooManyItems(len(request.item_ids), self._max_items)
        domain = check_domain(request.domain_id)
        admission = await self._ladder.admit(
            Asked(
                domain,
                request.user_id,
                request.item_ids,
                request.context,
                request.min_generation,
                request.deadline,
                self._ladder.serving(domain),
                self._clock,
            )
        )
        shadow = None
        try:
            _refuse_if_strict(request, admission)
            self._tell_lookup(request, admission.asked, started)
            if admission.alias == "live":
                shadow = self._shadows.choose(admission.asked)
            logits = await self._logits(admission, request, shadow)
            if not np.isfinite(logits).all():
                admission, logits = await self._rescue(request, admission)
                shadow = None
        finally:
            admission.release()
        replying = self._clock.now()
        if replying >= request.deadline:
            self._observer.deadline_missed("reply")
            raise DeadlineExceeded("before the reply was written")
        result = self._result(request, admission, logits)
        if shadow is not None:
            shadow.answer(result.scores)
        self._tell_stage(request, "reply", (replying, self._clock.now()))
        return result

    def _tell_lookup(self, request: ScoreRequest, asked: Asked, began: float) -> None:
        """Tell the stages before the queue: the rows are gathered in the midst of the lookup, which ends now."""
        found, gathered = asked.gathering
        self._tell_stage(request, "lookup", (began, found), (gathered, self._clock.now()))
        self._tell_stage(request, "gather", asked.gathering)

    def _tell_stage(self, request: ScoreRequest, name: Stage, *spans: tuple[float, float]) -> None:
        self._observer.stage(name, sum(ended - began for began, ended in spans))
        if request.account is not None:
            for began, ended in spans:
                request.account.stage(name, began, ended)

    async def _logits(
        self, admission: Admission, request: ScoreRequest, shadow: ShadowRun | None = None
    ) -> NDArray[np.float64]:
        """Score the segments and put their rows back in order; float64 (n,)."""
        parts = await self._batcher.submit(admission.segments, request.deadline, shadow, request.account)
        return in_order(parts, admission.positions)

    async def _rescue(self, request: ScoreRequest, admission: Admission) -> tuple[Admission, NDArray[np.float64]]:
        """Re-score by the backbone, all segments of the request so that one response is still one thing."""
        backbone = self._ladder.by_backbone(admission.asked, admission.generation, "adapter_rejected")
        logits = await self._logits(backbone, request)
        if not np.isfinite(logits).all():
            raise EngineFailed("the backbone gave a logit that is not finite; no scores are returned")
        if admission.slot is not None and await self._is_at_fault(admission):
            reason = "it gave a logit that is not finite for rows that the backbone scores"
            self._domains.set_aside(request.domain_id, admission.slot, reason)
            self._loader.pull(request.domain_id)  # an earlier revision may take over
        admission.release()
        if request.strict:
            raise Unavailable(request.domain_id, "adapter_rejected")
        return backbone, logits

    async def _is_at_fault(self, admission: Admission) -> bool:
        """Whether the adapter fails without the client's own numbers too: no request may talk an adapter down."""
        tables = admission.asked.tables
        segments = [
            Segment(tables.without_context(segment.rows), segment.prepared, segment.engine)
            for segment in admission.segments
        ]
        parts = await self._batcher.submit(segments, admission.asked.deadline)
        return not all(np.isfinite(part).all() for part in parts)

    def _result(self, request: ScoreRequest, admission: Admission, logits: NDArray[np.float64]) -> ScoreResult:
        asked = admission.asked
        if admission.fallback is not None:
            self._observer.fallback(admission.fallback)
        if admission.alias == "canary":
            self._observer.canary_scored(len(logits))
        scores = probability(logits)
        self._tell_scored(request.domain_id, scores, admission)
        served = Served(
            asked.tables.bundle,
            admission.revision,
            admission.alias,
            admission.generation,
            admission.fuses,
            asked.tables.revisions,
            admission.fallback,
        )
        return ScoreResult(
            scores,
            request.domain_id,
            served,
            admission.encoded.unknown_user,
            request.request_id,
            admission.encoded.unknown_items,
        )

    def _tell_scored(self, domain: str, scores: NDArray[np.float64], admission: Admission) -> None:
        known = self._domains.get(domain)
        self._observer.scored(
            domain,
            scores,
            known=known is not None or self._domains.division_of(domain) is not None,
            alias=admission.alias,
            fallback=admission.fallback,
            tried=known is not None and known.canary is not None,
            made_s=None if admission.slot is None else admission.slot.made_s,
        )


def _refuse_if_strict(request: ScoreRequest, admission: Admission) -> None:
    if not request.strict:
        return
    encoded = admission.encoded
    if admission.fallback == "unknown_domain":
        raise UnknownDomain(request.domain_id)
    unknown_items = encoded.unknown_items
    if encoded.unknown_user or unknown_items:
        raise UnknownEntities(request.user_id if encoded.unknown_user else None, unknown_items)
    if admission.fallback is not None:
        raise Unavailable(request.domain_id, admission.fallback)
