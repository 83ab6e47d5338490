"""The least level of the lines that a log writes, which may change while the service runs."""

from __future__ import annotations

from typing import Any, Literal

import structlog
from structlog.typing import EventDict

Level = Literal["debug", "info", "warning", "error"]
_RANKS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "exception": 40, "critical": 50, "fatal": 50}


class LogLevel:
    """A structlog step that drops what is below the level, to stand first among the steps of a log.

    structlog's own filter is a class chosen when the log is made, and every log bound from it keeps that class.

    Args:
        level: to begin with.
    """

    def __init__(self, level: Level = "info") -> None:
        self._level: Level = level
        self._least = _RANKS[level]

    @property
    def level(self) -> Level:
        """The least level that is written now."""
        return self._level

    def change(self, level: Level) -> None:
        """Write lines of this level and above from now on, in every log that was bound from the first."""
        self._level, self._least = level, _RANKS[level]

    def __call__(self, logger: Any, method: str, event: EventDict) -> EventDict:
        """Pass an event on, or drop it."""
        if _RANKS.get(method, self._least) < self._least:
            raise structlog.DropEvent
        return event
