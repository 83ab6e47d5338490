"""Laws of the store's claims: a line that shows nothing because nothing happened falls short."""

from __future__ import annotations

import json

from benchmarks.claims.load import Outcome
from benchmarks.claims.store_faults import Played, verdicts
from benchmarks.claims.store_workers import workers_that_answered


def test_a_fault_that_never_happened_falls_short() -> None:
    """Law: blobs that were to be damaged and all came whole are told apart from blobs that were."""
    for damaged, verdict in (({"flipped": 0, "cut": 3}, "falls short"), ({"flipped": 2, "cut": 3}, "holds")):
        lines = [
            line for line in verdicts("damage", Played(Outcome(), [], damaged), False) if "their way" in line.claim
        ]
        assert [line.verdict for line in lines] == [verdict, "holds"]
    assert not [line for line in verdicts("kill", Played(Outcome(), []), True) if "their way" in line.claim]


def test_a_worker_answered_where_its_log_has_a_score() -> None:
    """Law: workers are counted by lines of scores that were answered 200, each once, whatever else is in the log."""

    def line(worker: int, route: str = "/score", status: int = 200, event: str = "request") -> str:
        return json.dumps({"event": event, "route": route, "status": status, "worker": worker})

    said = [line(1), line(1), line(3), line(2, route="/adapters/{domain}"), line(4, status=503), line(5, event="x")]
    assert workers_that_answered("\n".join([*said, "a traceback", "[]", '{"worker": 6}']).encode()) == 2
