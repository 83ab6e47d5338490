"""Why feedback is not taken; a branch of the tree in `service.errors`.

ServiceError
└── FeedbackError
    ├── FeedbackOff       no folder for it is configured
    ├── FeedbackFull      what may be held on the local disk is used up
    ├── FeedbackBusy      more waits for the disk than may
    └── FeedbackFailed    the disk refused: nothing is acknowledged
"""

from __future__ import annotations

from service.errors import ServiceError


class FeedbackError(ServiceError):
    """Feedback that was not taken; nothing of it counts as stored, and the client sends it again."""


class FeedbackOff(FeedbackError):
    """No folder for feedback is configured."""

    def __init__(self) -> None:
        super().__init__("feedback is off: start the service with feedback_dir (ESPALIER_FEEDBACK_DIR)")


class FeedbackFull(FeedbackError):
    """What feedback may hold on the local disk is used up, and nothing shipped is left to delete.

    Args:
        limit_bytes: the bound.
        shipping: whether segments go to an object store.
    """

    retry_after_s = 30.0

    def __init__(self, limit_bytes: int, *, shipping: bool) -> None:
        remedy = (
            "segments that the object store has not taken fill it: see why it does not, or raise feedback_keep_bytes"
            if shipping
            else "move closed segments out of feedback_dir, or raise feedback_keep_bytes"
        )
        super().__init__(f"the {limit_bytes:,} bytes that feedback may hold on this disk are used up; {remedy}")


class FeedbackBusy(FeedbackError):
    """More events wait for the disk than may."""

    retry_after_s = 1.0

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting:,} events of feedback wait for the disk; try again in a second")


class FeedbackFailed(FeedbackError):
    """The disk refused; some of it may be stored, so a repetition may make duplicates, which training drops."""

    retry_after_s = 5.0

    def __init__(self, reason: str) -> None:
        super().__init__(f"feedback could not be written: {reason}; send it again")
