"""What the HTTP edge refuses before the service core is asked; a branch of the tree in `service.errors`.

ServiceError
├── SettingsInvalid       an unknown or impossible setting, variable, token file
└── Refusal
    ├── MalformedRequest      bytes that are not of their form, a header that cannot be read
    ├── InvalidRequest        a body of the wrong shape; names the field
    ├── Unauthenticated       no token, or one that is not known
    ├── Forbidden             a known caller without the scope
    ├── UnsupportedMediaType  a body in a form that the route does not read
    ├── BodyTooLarge          more bytes than the route takes
    ├── HeadersTooLarge       more header bytes than the server takes
    ├── BodyTooSlow           the client did not send its body in time
    ├── ClientGone            the client left before its body was complete
    ├── UploadsBusy           as many uploads in flight as are allowed
    ├── RateLimited           a token that asks for more than its limits
    ├── PreconditionFailed    If-Match that names another state of the record
    └── NotReady              the replica is draining
"""

from __future__ import annotations

from service.errors import ServiceError


class SettingsInvalid(ServiceError):
    """An unknown or impossible setting, ESPALIER_ variable or token file; the service does not start."""


class Refusal(ServiceError):
    """A request that the HTTP edge turns away."""


class MalformedRequest(Refusal):
    """Bytes that are not of the form that they are said to be, or a header or query that cannot be read."""


class InvalidRequest(Refusal):
    """A body of the wrong shape or value.

    Args:
        message: what is wrong and what is expected.
        field: path of the field in the request, such as `item_ids[3]`.
    """

    def __init__(self, message: str, field: str) -> None:
        super().__init__(message)
        self.field = field


class Unauthenticated(Refusal):
    """No bearer token, or one that this service does not know."""


class Forbidden(Refusal):
    """A caller whose token lacks the scope that the route needs.

    Args:
        message: what is missing and how to get it.
        scope: the scope, such as `publish:women`.
        by: name of the token.
    """

    def __init__(self, message: str, scope: str, by: str) -> None:
        super().__init__(message)
        self.scope = scope
        self.by = by


class UnsupportedMediaType(Refusal):
    """A body whose Content-Type names a form that the route does not read."""


class BodyTooLarge(Refusal):
    """A body of more bytes than the route takes."""


class HeadersTooLarge(Refusal):
    """A request line and headers of more bytes than the server takes."""


class BodyTooSlow(Refusal):
    """A body that was not complete within the time allowed."""


class ClientGone(Refusal):
    """A client that left before its body was complete; nobody reads the reply."""


class UploadsBusy(Refusal):
    """As many uploads in flight as are allowed.

    Args:
        message: how many are in flight.
        retry_after_s: when to come back.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimited(Refusal):
    """A token that asks for more requests or rows a second than its limits allow.

    Args:
        message: which limit.
        retry_after_s: when it may ask again.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PreconditionFailed(Refusal):
    """An If-Match that names another state of the record than the one it has."""


class NotReady(Refusal):
    """A replica that is draining."""
