"""What the service can refuse or fail at. No HTTP status here: the one error -> status table is `service.problems`.

    ServiceError
    ├── StartError               the replica cannot open: no default backbone, or its golden rows are not reproduced
    ├── ScoreError
    │   ├── UnknownDomain        strict: neither the bundle nor the store knows the domain
    │   ├── AuxiliaryDomain      the domain belongs to an auxiliary division
    │   ├── UnknownEntities      strict: unknown user, or unknown items
    │   ├── InvalidContext       a context value that its field cannot take
    │   ├── TooManyItems         more items than one request may carry
    │   ├── Unavailable          strict: a fallback would have scored
    │   ├── QueueFull            the batcher's queue has no room
    │   ├── DeadlineExceeded     the reply would have been late
    │   └── EngineFailed         the engine failed on the batch, or the backbone itself gave a non-finite logit
    └── PublishError
        ├── PublishBusy          as many publishes in flight as this replica takes
        ├── BodyMismatch         the body is not what the claimed digest names
        ├── DivisionMismatch     the domain is already known in another division
        └── NeverTried           a canary or shadow of an auxiliary domain, which no request would meet

Errors of the store (`adapters_store.errors`: refused artifacts, lost compare-and-set, unreachable store) pass through
the publisher unchanged; on the scoring path they become a fallback.
"""

from __future__ import annotations

from collections.abc import Sequence


class ServiceError(Exception):
    """Base of every error that this package raises on purpose."""


class StartError(ServiceError):
    """The replica cannot open; the message says what is missing and how to supply it."""


class ScoreError(ServiceError):
    """A score request that is answered by no scores."""


class UnknownDomain(ScoreError):
    """Strict request for a domain that neither the bundle nor the store knows."""

    def __init__(self, domain_id: str) -> None:
        super().__init__(f"domain {domain_id!r} is unknown: no adapter was published for it and the bundle lists none")
        self.domain_id = domain_id


class AuxiliaryDomain(ScoreError):
    """Request for a domain of an auxiliary division, which is read from the entities and never asked for."""

    def __init__(self, domain_id: str, division: str) -> None:
        super().__init__(
            f"domain {domain_id!r} belongs to the auxiliary division {division!r}; domain_id must name a domain of the "
            "natural division, the auxiliary one is read from the user, item or context"
        )
        self.domain_id = domain_id
        self.division = division


class UnknownEntities(ScoreError):
    """Strict request whose user or some of whose items the feature tables do not hold.

    Args:
        user_id: the user's id when the user is unknown, else None.
        positions: positions in item_ids of the unknown items.
    """

    def __init__(self, user_id: str | int | None, positions: Sequence[int]) -> None:
        parts = [] if user_id is None else ["user_id is unknown"]
        if positions:
            shown = ", ".join(str(position) for position in positions[:10])
            more = "" if len(positions) <= 10 else f" and {len(positions) - 10} more"
            parts.append(f"items at positions {shown}{more} of item_ids are unknown")
        super().__init__("; ".join(parts) + "; without `strict` they are scored as out of vocabulary")
        self.unknown_user = user_id is not None
        self.positions = tuple(positions)


class InvalidContext(ScoreError):
    """A context value that its field cannot take; the message names the field."""


class TooManyItems(ScoreError):
    """More items than one request may carry."""

    def __init__(self, items: int, limit: int) -> None:
        super().__init__(f"item_ids has {items} entries, at most {limit} are scored in one request: split it")
        self.items = items
        self.limit = limit


class Unavailable(ScoreError):
    """Strict request that only a fallback could have scored.

    Args:
        fallback: the reason, one of `service.scorer.Fallback`.
    """

    def __init__(self, domain_id: str, fallback: str) -> None:
        super().__init__(
            f"domain {domain_id!r} is not served by its live adapter ({fallback}); "
            "without `strict` the request is scored by the fallback ladder"
        )
        self.domain_id = domain_id
        self.fallback = fallback


class QueueFull(ScoreError):
    """The queue of rows has no room for the request.

    Args:
        retry_after_s: when a retry is expected to find room, seconds.
    """

    def __init__(self, queued_rows: int, limit_rows: int, retry_after_s: float) -> None:
        super().__init__(f"{queued_rows} of {limit_rows} rows are queued; try again in {retry_after_s:.2f} s")
        self.retry_after_s = retry_after_s


class DeadlineExceeded(ScoreError):
    """The reply would have left after the request's deadline."""

    def __init__(self, where: str) -> None:
        super().__init__(f"the deadline passed {where}; no scores are returned late")
        self.where = where


class EngineFailed(ScoreError):
    """The engine failed on this batch, or the backbone itself gave a non-finite logit."""


class PublishError(ServiceError):
    """A publish that this replica does not take."""


class PublishBusy(PublishError):
    """As many publishes are in flight as this replica takes.

    Args:
        retry_after_s: when to try again, seconds.
    """

    def __init__(self, limit: int, retry_after_s: float) -> None:
        super().__init__(
            f"{limit} publishes are in flight, this replica takes no more; try again in {retry_after_s:.0f} s"
        )
        self.retry_after_s = retry_after_s


class BodyMismatch(PublishError):
    """The body's digest is not the claimed one."""

    def __init__(self, claimed: str, actual: str) -> None:
        super().__init__(
            f"the body's sha256 is {actual}, the request claims {claimed}: the upload was damaged or misnamed"
        )
        self.claimed = claimed
        self.actual = actual


class DivisionMismatch(PublishError):
    """The adapter names another division than the one in which its domain is known."""

    def __init__(self, domain: str, claimed: str, known: str) -> None:
        super().__init__(
            f"the adapter places domain {domain!r} in division {claimed!r}, but it is a domain of {known!r}; "
            "a domain id is unique over all divisions"
        )
        self.domain = domain


class NeverTried(PublishError):
    """A canary or shadow of an auxiliary domain: no request names one, so nobody would ever be scored by it."""

    def __init__(self, domain: str, division: str, alias: str) -> None:
        super().__init__(
            f"domain {domain!r} belongs to the auxiliary division {division!r}, which is never scored by itself: its "
            f"{alias} would meet no request; make it live, and try adapters of the natural division that pin it"
        )
        self.domain = domain
