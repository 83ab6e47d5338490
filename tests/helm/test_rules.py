"""The Prometheus rules: they are valid, their unit tests pass, and each alert has its entry in the runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helm.test_dashboards import documented, metrics_of

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm" / "espalier" / "rules" / "espalier.yaml"
TESTS = ROOT / "helm" / "tests" / "rules.yaml"
PROMTOOL = shutil.which("promtool")


def rules() -> list[dict[str, Any]]:
    """All of them."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: apt-get install prometheus)")
@pytest.mark.parametrize("order", [("check", "rules", str(RULES)), ("test", "rules", str(TESTS))])
def test_promtool_accepts_the_rules_and_their_tests(order: tuple[str, ...]) -> None:
    """Law: `promtool check rules` and `promtool test rules` pass."""
    done = subprocess.run([str(PROMTOOL), *order], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_both_ways() -> None:
    """Law: the unit tests have, for each alert, a moment at which it fires and one at which it does not."""
    cases = [case for test in yaml.safe_load(TESTS.read_text())["tests"] for case in test.get("alert_rule_test", [])]
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


def test_every_alert_has_its_entry_in_the_runbook_and_names_it() -> None:
    """Law: alerts and the runbook's headings are the same, in the same order, and each alert points to its own."""
    alerts = [rule for rule in rules() if "alert" in rule]
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert headings == [rule["alert"] for rule in alerts]
    for rule in alerts:
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_every_rule_asks_for_metrics_that_exist() -> None:
    """Law: a metric of a rule is in docs/metrics.md."""
    asked = {metric for rule in rules() for metric in metrics_of(rule["expr"])}
    assert asked <= documented()
