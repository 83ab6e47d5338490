"""docs/logs.md names every kind of line, every action of the audit, and every field; held against the code itself."""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from service.access_log import AccessLog
from service.account import Account
from service.logs import Action, open_log
from service.metrics import Metrics
from tests.service.clockwork import ManualClock

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/logs.md").read_text(encoding="utf-8")
EVERY_LINE = {"event", "level", "timestamp"}
WRITES = {"debug", "info", "warning", "error", "tell"}
AUDITS = {"change", "followed", "refused", "denied", "audited", "audited_domain", "done"}
_FIELD = re.compile(r"`([a-z][a-z_.]*)`")


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of the tables below a heading."""
    section = GUIDE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def calls(*rooms: str) -> Iterator[tuple[ast.Call, str]]:
    """Every call in these rooms with the name of what is called."""
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    called = node.func
                    yield node, called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def test_every_kind_of_line_is_described_with_its_fields() -> None:
    """Law: what the service writes and what the guide's table says are the same events with the same fields."""
    written: dict[str, set[str]] = {}
    for call, name in calls("service"):
        event = call.args[0] if call.args else None
        if name in WRITES and isinstance(event, ast.Constant) and isinstance(event.value, str):
            fields = {"exception" if each.arg == "exc_info" else each.arg for each in call.keywords if each.arg}
            written.setdefault(event.value, set()).update(fields)
    for told_elsewhere in ("request", "audit"):
        del written[told_elsewhere]
    told = {_FIELD.findall(row[0])[0]: set(_FIELD.findall(row[2])) for row in rows("Everything else")}
    assert told == written


def test_every_field_of_a_request_is_described() -> None:
    """Law: the fullest line of a request has exactly the fields of the guide."""
    stream = io.StringIO()
    log, account = open_log(stream=stream), Account()
    for name in set(Account.__slots__) - {"stages"}:
        setattr(account, name, "x")
    account.stage("parse", 0.0, 1.0)
    access = AccessLog(log, Metrics(log).registry, share=1.0, clock=ManualClock())
    told = {"route": "/score", "method": "POST", "status": 200, "seconds": 1.0, "request_id": "r", "trace_id": "t"}
    access.tell(account=account, **told)  # type: ignore[arg-type]
    described = {field for row in rows("Requests") for field in _FIELD.findall(row[0])}
    assert set(json.loads(stream.getvalue())) == described | EVERY_LINE


def test_every_action_and_field_of_the_audit_is_described() -> None:
    """Law: each action that the code may name is in the guide, and each field that the code names is too."""
    tables = [_FIELD.findall(row[0]) for row in rows("The audit")]
    described = {name for names in tables for name in names}
    actions = set(get_args(Action))
    assert actions <= described
    fields = {
        keyword.arg
        for call, name in calls("service", "cli")
        if name in AUDITS and not (name == "change" and isinstance(call.func, ast.Name))
        for keyword in call.keywords
        if keyword.arg is not None
    }
    assert fields <= described
    in_mappings = {"from", "to", "from_percent", "to_percent", "percent", "reason", "source", "destination"}
    written_by_others = {"action", "outcome", "request_id"}
    assert described - actions <= fields | in_mappings | written_by_others
