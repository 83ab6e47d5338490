"""checkov's view of the chart and the Dockerfile. It lives in an environment of its own: it pins what we do not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.helm.rendering import CHART, EXAMPLES, example, rendered

ROOT = CHART.parents[1]
CONFIG = ROOT / "helm" / "checkov.yaml"


def command() -> str:
    """The checkov at hand: of CHECKOV, of build/checkov, or on the path; else the test is skipped."""
    own = ROOT / "build" / "checkov" / "bin" / "checkov"
    found = os.environ.get("CHECKOV") or (str(own) if own.exists() else shutil.which("checkov"))
    if found is None:
        pytest.skip("checkov is not installed: python3 -m venv build/checkov && build/checkov/bin/pip install checkov")
    return found


def test_no_check_fails_beside_those_with_a_reason(tmp_path: Path) -> None:
    """Law: what checkov finds in the examples and the Dockerfile is what helm/checkov.yaml gives reasons for."""
    checkov = command()
    for path in EXAMPLES:
        text = yaml.safe_dump_all(rendered(example(path.stem)))
        (tmp_path / f"{path.stem}.yaml").write_text(text)
    shutil.copy(ROOT / "Dockerfile", tmp_path)
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    options = ["--skip-download", "--compact", "--quiet", "--output", "json", "--soft-fail"]
    done = subprocess.run(
        [checkov, "--directory", str(tmp_path), "--framework", *config["framework"], *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    reports = {report["check_type"]: report for report in json.loads(done.stdout)}
    assert reports.keys() == set(config["framework"])
    failed = {
        (check["check_id"], check["file_path"], check["resource"])
        for report in reports.values()
        for check in report["results"]["failed_checks"]
    }
    reasons = set(config["skip-check"])
    assert not sorted(each for each in failed if each[0] not in reasons)
    assert reasons == {check for check, _, _ in failed}, "a reason is no longer needed"
    assert all(
        report["summary"]["passed"] > 50 and not report["summary"]["parsing_errors"] for report in reports.values()
    )
