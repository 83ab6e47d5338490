"""Schemathesis on the whole API: every documented operation, alone and in chains, right and wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.claims.line import Line, at_least, exactly, measured
from benchmarks.claims.served import last_epoch_run, publish_run
from benchmarks.claims.workplace import ClaimError, Server, Workplace, serving

CASES = 2000
EXAMPLES = 120  # of an operation, in each phase
# statuses and bodies that the schema does not name, wrong requests taken, tokens ignored; an answer of 500 is counted
# here, because the check for it also refuses 503 and 504, which the schema names
CHECKS = (
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "ignored_auth",
)

# a body that never comes, or a deadline that is over, may be told before a fault is found
_CONFIG = """\
hooks = {hooks}

[checks.negative_data_rejection]
expected-statuses = ["4xx", "503", "504"]
"""


def explore(work: Workplace, server: Server) -> Path:
    """Run it to its end; the events it wrote."""
    events, log = work.folder / "schemathesis.ndjson", work.folder / "schemathesis.log"
    config = work.folder / "schemathesis.toml"
    config.write_text(_CONFIG.format(hooks=json.dumps(str(Path(__file__).with_name("schemathesis_hooks.py")))))
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        f"--config-file={config}",
        "run",
        f"{server.url}/openapi.json",
        "--phases=examples,coverage,fuzzing,stateful",
        f"--checks={','.join(CHECKS)}",
        f"--max-examples={5 if work.quick else EXAMPLES}",
        f"--header=Authorization:Bearer {server.token}",
        "--request-timeout=20",
        "--continue-on-failure",
        "--suppress-health-check=all",
        "--warnings=off",
        "--seed=7",
        f"--report-ndjson-path={events}",
    ]
    with log.open("wb") as sink:
        done = subprocess.run(command, cwd=work.folder, stdout=sink, stderr=sink, check=False, timeout=3000)
    told = log.read_text(errors="replace")
    if done.returncode not in (0, 1) or not events.exists():
        raise ClaimError(f"schemathesis ended with {done.returncode}\n{told[-3000:]}")
    return events


def counted(events: Path) -> tuple[int, Counter[str], Counter[int]]:
    """Cases sent, failed checks by what failed where, and answers by status."""
    cases, failures, statuses = 0, Counter[str](), Counter[int]()
    for line in events.read_text().splitlines():
        finished = json.loads(line).get("ScenarioFinished")
        if finished is None:
            continue
        recorder = finished["recorder"]
        cases += len(recorder.get("interactions", {}))
        for interaction in recorder.get("interactions", {}).values():
            response = interaction.get("response") or {}
            statuses[response.get("status_code", 0)] += 1
        for checks in recorder.get("checks", {}).values():
            for check in checks:
                if check["status"] == "failure":
                    failures[f"{check['name']} of {recorder['label']}"] += 1
    return cases, failures, statuses


def lines(work: Workplace) -> Iterator[Line]:
    """One server on a store of its own."""
    run = last_epoch_run(work)
    store = publish_run(work, run)
    with serving(work, store, feedback_dir=str(work.folder / "feedback")) as server:
        events = explore(work, server)
    cases, failures, statuses = counted(events)
    yield at_least("schemathesis: cases sent", cases, 50 if work.quick else CASES, digits=0)
    yield exactly("schemathesis: failed checks", sum(failures.values()), 0)
    for failure, count in failures.most_common(20):
        yield measured("schemathesis: failed", f"{count} x {failure}")
    yield exactly("schemathesis: answers of 500, or none", statuses[500] + statuses[0], 0)
    yield measured("schemathesis: answers by status", str(dict(sorted(statuses.items()))))
