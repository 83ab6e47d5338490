"""Logs: one JSON object a line, library logs included, nothing configured for the whole process."""

from __future__ import annotations

import io
import json
import logging

import pytest

from service.logs import AuditLog, open_log
from service.server import forwarded_logs
from tests.service.live import exchange
from tests.service.test_http_connection import edge


def test_what_libraries_log_becomes_a_line_of_ours_while_the_server_runs() -> None:
    """uvicorn's warnings stand in the same form beside ours, and its handlers are gone afterwards."""
    stream = io.StringIO()
    before = list(logging.getLogger("uvicorn").handlers)
    with forwarded_logs(open_log(stream=stream)):
        logging.getLogger("uvicorn.error").warning("something at %s", "the door")
        logging.getLogger("uvicorn.error").info("nothing to see")
    line = json.loads(stream.getvalue())
    assert (line["event"], line["level"], line["logger"]) == ("something at the door", "warning", "uvicorn.error")
    assert logging.getLogger("uvicorn").handlers == before


def test_the_level_is_kept() -> None:
    """What is below it is not written."""
    stream = io.StringIO()
    log = open_log("warning", stream)
    log.info("quiet")
    log.warning("loud")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["loud"]


def test_a_change_that_fails_is_audited_with_its_reason() -> None:
    """A refusal leaves a line as a change does, and the error goes on."""
    stream = io.StringIO()
    audit = AuditLog(open_log(stream=stream))
    with pytest.raises(ValueError, match="no"), audit.change("publish", by="me", request_id="1", domain="x"):
        raise ValueError("no")
    line = json.loads(stream.getvalue())
    assert {"outcome": "ValueError", "reason": "no", "by": "me", "domain": "x"}.items() <= line.items()


async def test_bytes_that_are_no_http_get_a_problem() -> None:
    """Even a client that speaks something else is told in the one form."""
    async with edge() as live:
        answer = await exchange(live.port, b"\x16\x03\x01 hello\r\n\r\n")
    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert b"application/problem+json" in head
    assert json.loads(content)["type"] == "urn:espalier:problem:malformed-request"
