"""What was scored lately, so that feedback that names a response finds its user, domain, score and context.

Scoring pays O(1) for it: a reference to what the request and the response hold anyway goes into a dict, and the oldest
ones leave. Everything else (finding an item, encoding a context) is done by the thread that writes feedback.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.feedback.events import ID_CHARACTERS, FeedbackEvent
from service.scorer import ScoreResult, Served

RECENT_BYTES = 64 << 20
CONTEXT_BYTES = 4096
FRESH_ROWS = 200_000
# what Python takes for an id (a string's head and its place in a list), its score and, once labelled, its place
_ROW_BYTES = 176
_RESPONSE_BYTES = 1024

Outcome = Literal["matched", "contradicting", "unmatched"]


@dataclass(slots=True, eq=False)
class Response:
    """One response, as long as it is remembered.

    Args:
        user_id: who was scored.
        domain_id: where.
        item_ids: as asked.
        scores: probabilities, float64 (n,), in their order.
        served: what scored.
        context: of the request.
        size_bytes: what it is counted as.
        places: item id -> position; made when the first feedback comes.
        labelled: positions that have a label.
        context_fits: whether the context is small enough to stand in lines; found when it is first asked for.
    """

    user_id: str | int
    domain_id: str
    item_ids: Sequence[str | int]
    scores: NDArray[np.float64]
    served: Served
    context: Mapping[str, Any] | None
    size_bytes: int
    places: dict[str, int] | None = None
    labelled: set[int] = field(default_factory=set)
    context_fits: bool | None = None

    @property
    def line_context(self) -> dict[str, Any] | None:
        """The context for a line; None where there was none, or where it is too large to stand in every line."""
        if self.context_fits is None:
            self.context_fits = len(msgspec.json.encode(self.context)) <= CONTEXT_BYTES
        return dict(self.context) if self.context and self.context_fits else None

    def place_of(self, item_id: str) -> int | None:
        """Position of an item, the first one where it was asked for twice; None if it was not among them."""
        if self.places is None:
            count = len(self.item_ids)
            self.places = {str(item): count - 1 - back for back, item in enumerate(reversed(self.item_ids))}
        return self.places.get(item_id)


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """What an event is about.

    Args:
        outcome: `contradicting` where the response is of another user or domain, or did not hold the item; `unmatched`
            where no response was named, or it is not remembered here.
        response: of the request, if matched.
        place: of the item in it.
    """

    outcome: Outcome
    response: Response | None = None
    place: int = 0

    @property
    def score(self) -> float | None:
        """What the item was scored with."""
        return None if self.response is None else float(self.response.scores[self.place])

    def label_first(self) -> bool:
        """Note that the row has a label; whether it is the first one."""
        if self.response is None or self.place in self.response.labelled:
            return False
        self.response.labelled.add(self.place)
        return True


class RecentResponses:
    """The last responses of this process, as many as fit.

    Written by the event loop; read by the one thread that takes feedback, which relies on single operations of a dict
    and a deque being atomic.

    Args:
        most_bytes: what they may hold, counted generously.
        fresh_rows: rows that may wait for `take_fresh`; what comes beyond them is not looked at for drift.
    """

    def __init__(self, most_bytes: int = RECENT_BYTES, fresh_rows: int = FRESH_ROWS) -> None:
        self._most_bytes = most_bytes
        self._fresh_rows = fresh_rows
        self._held: dict[str, Response] = {}
        self._held_bytes = 0
        self._fresh: deque[ScoreResult] = deque()
        self._waiting_rows = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def held_bytes(self) -> int:
        """What the responses are counted as."""
        return self._held_bytes

    def remember(
        self,
        result: ScoreResult,
        user_id: str | int,
        item_ids: Sequence[str | int],
        context: Mapping[str, Any] | None,
        body_bytes: int,
    ) -> None:
        """Keep a response; amortized O(1).

        Args:
            result: its request_id names it.
            user_id, item_ids, context: of the request.
            body_bytes: size of the request's body, which bounds what its ids and context take.
        """
        rows = len(result.scores)
        if self._waiting_rows < self._fresh_rows:
            self._waiting_rows += rows + 1
            self._fresh.append(result)
        size_bytes = _RESPONSE_BYTES + body_bytes + _ROW_BYTES * rows
        if size_bytes > self._most_bytes or (isinstance(user_id, str) and len(user_id) > ID_CHARACTERS):
            return
        before = self._held.pop(result.request_id, None)
        if before is not None:
            self._held_bytes -= before.size_bytes
        self._held[result.request_id] = Response(
            user_id, result.domain_id, item_ids, result.scores, result.served, context, size_bytes
        )
        self._held_bytes += size_bytes
        while self._held_bytes > self._most_bytes:
            self._held_bytes -= self._held.pop(next(iter(self._held))).size_bytes

    def match(self, event: FeedbackEvent) -> Match:
        """Find what an event is about."""
        response = None if event.request_id is None else self._held.get(event.request_id)
        if response is None:
            return Match("unmatched")
        if event.user_id is not None and str(event.user_id) != str(response.user_id):
            return Match("contradicting")
        if event.domain_id is not None and event.domain_id != response.domain_id:
            return Match("contradicting")
        place = response.place_of(str(event.item_id))
        return Match("contradicting") if place is None else Match("matched", response, place)

    def take_fresh(self) -> list[ScoreResult]:
        """Results since the last call, each once; a sample of them where very many came."""
        fresh: list[ScoreResult] = []
        while self._fresh:
            fresh.append(self._fresh.popleft())
        # a result that came in between may be counted off here and so let one more in: harmless
        self._waiting_rows = 0
        return fresh
