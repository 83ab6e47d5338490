"""Logs as one JSON object a line; the audit line says who changed what. No user id is ever logged."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import FilteringBoundLogger

from service.log_level import Level, LogLevel

Action = Literal[
    # asked for by someone, of one domain
    "publish",
    "publish_fusion",
    "set_live",
    "set_canary",
    "set_shadow",
    "clear_canary",
    "clear_shadow",
    "rollback",
    "delete",
    "freeze",
    "thaw",
    # asked for by someone, of all domains
    "publish_run",
    "set_backbone",
    "rollback_backbone",
    "publish_features",
    "stage_release",
    "flip_release",
    "rollback_release",
    "backbone_only",
    "copy_store",
    "collect_garbage",
    # asked for by someone who may not
    "denied",
    # done by a replica, by the word of whoever wrote the record
    "activate",
    "reject",
]


def open_log(level: Level | LogLevel = "info", stream: TextIO | None = None) -> FilteringBoundLogger:
    """A logger of its own, so that nothing global is configured.

    Args:
        level: of the lines written; one that may change is passed as a LogLevel.
        stream: where lines go; stderr if absent.
    """
    log: FilteringBoundLogger = structlog.wrap_logger(
        # a line is one write: workers share stderr
        structlog.WriteLogger(cast(TextIO, Lasting(stream or sys.stderr))),
        processors=[
            level if isinstance(level, LogLevel) else LogLevel(level),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # without locals, which may hold ids and tokens
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("debug"),
    )
    return log


class Lasting:
    """A stream whose reader may go, as a terminal that is closed: no line is worth a service.

    Args:
        stream: where text goes while it can.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or leave it out."""
        try:
            return self._stream.write(text)
        except OSError:
            self.let_go()
            return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        try:
            self._stream.flush()
        except OSError:
            self.let_go()

    def let_go(self) -> None:
        """Send it nowhere from now on: what it still holds would fail once more when the process ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, self._stream.fileno())
        finally:
            os.close(nowhere)


class Forward(logging.Handler):
    """Hands records of the standard library's logging (uvicorn's, asyncio's) to our log.

    Args:
        log: where they go.
    """

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record as an object."""
        self._log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or None)


class AuditEntry:
    """One change while it happens.

    Args:
        facts: what is known of it from the start.
    """

    def __init__(self, **facts: Any) -> None:
        self.outcome = "done"
        self.facts = facts

    def done(self, outcome: str, **facts: Any) -> None:
        """The change was made (or found in place); further facts are added to its line."""
        self.outcome = outcome
        self.facts.update(facts)

    def moved(self, before: object, after: object) -> None:
        """What stood before and stands now: digests, or None for nothing."""
        self.facts.update({"from": before, "to": after})


class AuditLog:
    """Who changed what a domain is scored by, and what was refused.

    Args:
        log: where the lines go.
        shown: what of an error's message may be shown.
    """

    def __init__(self, log: FilteringBoundLogger, shown: Callable[[str], str] = str) -> None:
        self._log = log
        self._shown = shown

    def followed(self, action: Action, *, by: str, **facts: Any) -> None:
        """This replica acts by a change that was made elsewhere, by this author."""
        self._log.info("audit", outcome="followed", action=action, by=by, **facts)

    def refused(self, action: Action, *, by: str, **facts: Any) -> None:
        """This replica refuses what this author named."""
        self._log.warning("audit", outcome="refused", action=action, by=by, **facts)

    def denied(self, *, by: str, reason: str, **facts: Any) -> None:
        """The token's scopes do not allow this change."""
        self._log.warning("audit", outcome="Forbidden", action="denied", by=by, reason=reason, **facts)

    @contextmanager
    def change(self, action: Action, *, by: str, **facts: Any) -> Iterator[AuditEntry]:
        """Write one line when the change inside ends: its outcome, or the error that it was refused with."""
        entry = AuditEntry(action=action, by=by, **facts)
        try:
            yield entry
        except Exception as error:
            self._log.warning("audit", outcome=type(error).__name__, reason=self._shown(str(error)), **entry.facts)
            raise
        self._log.info("audit", outcome=entry.outcome, **entry.facts)
