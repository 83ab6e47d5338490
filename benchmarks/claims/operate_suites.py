"""Promises that a part of the test suite holds: every route x scope x result, the secrets, the chart, rules, boards."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.claims.line import Line
from benchmarks.claims.workplace import ROOT, ClaimError, Workplace, run

SUITES: Mapping[str, Sequence[str]] = {
    "tokens: every route x scope x result": ("tests/service/test_scopes.py",),
    "secrets looked for in logs, errors, metrics and help": ("tests/service/test_secrets.py",),
    "rules: promtool check and test, a runbook entry each": ("tests/helm/test_rules.py",),
    "dashboards: as built, described, of metrics that exist": ("tests/helm/test_dashboards.py",),
    "chart: lint, six value sets, schema, two Kubernetes versions": (
        "tests/helm/test_chart.py",
        "tests/helm/test_pods.py",
    ),
    "chart: every setting of the service reachable from values": ("tests/helm/test_settings.py",),
    "chart and Dockerfile: checkov, no failed check without a reason": ("tests/helm/test_checkov.py",),
}


def checkov(work: Workplace) -> str:
    """The command, in an environment of its own: it pins what we do not."""
    folder = work.folder / "checkov"
    command = folder / "bin" / "checkov"
    if not command.exists():
        log = work.folder / "checkov.log"
        run([sys.executable, "-m", "venv", str(folder)], ROOT, log, 300)
        run([str(folder / "bin" / "pip"), "install", "--quiet", "checkov"], ROOT, log, 1800)
    return str(command)


def outcome(
    work: Workplace, name: str, paths: Sequence[str], environment: Mapping[str, str]
) -> tuple[Counter[str], str]:
    """Tests by how they ended, and the names of those that did not pass.

    Raises:
        ClaimError: pytest itself did not run.
    """
    report, log = work.folder / "suite.xml", work.folder / "suite.log"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *paths]
    with log.open("wb") as sink:
        subprocess.run(command, cwd=ROOT, stdout=sink, stderr=sink, check=False, env={**os.environ, **environment})
    if not report.exists():
        raise ClaimError(f"the tests of {name!r} did not run\n{log.read_text(errors='replace')[-2000:]}")
    ends, others = Counter[str](), []
    for case in ElementTree.parse(report).iter("testcase"):
        end = next((each.tag for each in case if each.tag in ("failure", "error", "skipped")), "passed")
        ends[end] += 1
        if end != "passed":
            others.append(f"{case.get('name')} ({end})")
    return ends, ", ".join(others[:5])


def lines(work: Workplace) -> Iterator[Line]:
    """One line a promise."""
    for name, paths in SUITES.items():
        environment = {"CHECKOV": checkov(work)} if "tests/helm/test_checkov.py" in paths else {}
        ends, others = outcome(work, name, paths, environment)
        figure = f"{ends['passed']} of {ends.total()} tests passed" + (f"; not: {others}" if others else "")
        holds = ends["passed"] == ends.total() > 0
        yield Line(name, figure, "all pass, none is skipped", "holds" if holds else "falls short")
