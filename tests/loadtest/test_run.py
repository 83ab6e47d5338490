"""Locust as a process of its own: it never shares one with the tests, for gevent replaces what asyncio stands on."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.forge import Run
from cli.main import app
from tests.cli.serving import fill_store, running
from tests.loadtest.stub import Behaviour, stub, stub_catalogue
from tests.servers.certificates import make_certificates

ROOT = Path(__file__).parents[2]
# this machine may be busy with other tests: only what is wrong is tested here, not how fast it is
PATIENT = ("--p99-ms", "20000", "--timeout-s", "20", "--max-fallback-share", "1", "--max-error-share", "0.02")
ALONE = ("ScoringUser",)


@dataclass(frozen=True)
class Ended:
    """A Locust process that ended: its exit code, what it said, and the results that it wrote."""

    code: int
    said: str
    results: Any


def locust(folder: Path, url: str, catalogue: Path, *options: str, **variables: str) -> Ended:
    """Run a load test to its end."""
    results = folder / "results.json"
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"), "--headless"]
    command += ["--only-summary", "--host", url, "--catalogue", str(catalogue), "--results", str(results)]
    command += ["--html", str(folder / "report.html"), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    content = json.loads(results.read_text()) if results.exists() else None
    return Ended(done.returncode, done.stdout + done.stderr, content)


@dataclass(frozen=True)
class Served:
    """A real server with a catalogue of its store."""

    url: str
    pid: int
    catalogue: Path
    token: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, random_run: Run) -> Iterator[Served]:
    """`espalier serve` over four themes, two of them dyed, and six cold copies."""
    folder = tmp_path_factory.mktemp("load")
    store = (folder / "store").as_uri()
    asyncio.run(fill_store(store, random_run))
    runner = CliRunner()
    options = ["--copies", "6", "--dyed", "2", "--dyes", "3"]
    done = runner.invoke(app, ["load-catalogue", "--store", store, "--out", str(folder / "catalogue"), *options])
    assert done.exit_code == 0, done.output
    scopes = ["--scope", "score", "--scope", "read", "--scope", "publish:*"]
    made = runner.invoke(app, ["token", "new", "--name", "load", *scopes, "--out", str(folder / "tokens.yaml")])
    (folder / "token").write_text(made.stdout.split()[-1])
    with running(store, "--tokens", str(folder / "tokens.yaml")) as (process, url):
        yield Served(url, process.pid, folder / "catalogue" / "catalogue.json", folder / "token")


def test_publishes_and_canaries_under_load_leave_nothing_wrong(served: Served, tmp_path: Path) -> None:
    """Law: while dyes are published and canaries flip, every answer is of a revision that may score, by its scores."""
    soak = ("--shape", "soak", "--load", "30", "--soak-s", "5", "--items", "20", "--connections", "8")
    pace = ("--publish-every-s", "0.3", "--flip-every-s", "0.3", "--cold-every-s", "0.1")
    identity = ("--token-file", str(served.token), "--server-pid", str(served.pid))
    ended = locust(tmp_path, served.url, served.catalogue, *soak, *pace, *identity, *PATIENT)
    assert ended.code == 0, ended.said
    found = ended.results
    assert found["passed"]
    assert found["wrong"] == 0
    assert found["stages"][0]["requests"] > 50
    assert found["changes"]["requests"] > 8
    assert found["cold"]["requests"] > 8
    assert found["costs"][0]["resident_bytes"] > 10_000_000
    for name in ("publish", "store", "canary", "score cold", "POST"):
        assert name in ended.said
    assert (tmp_path / "report.html").stat().st_size > 10_000
    picture = tmp_path / "soak.png"
    subprocess.run([sys.executable, "-m", "loadtest.plot", str(tmp_path / "results.json"), str(picture)], check=True)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_scores_of_another_revision_than_named_fail_the_test(served: Served, tmp_path: Path) -> None:
    """Law: where scores do not fit the calibration that a revision is known to have, the process exits with 1."""
    content = json.loads(served.catalogue.read_text())
    for dyes in content["dyes"].values():
        dyes[0]["intercept"] += 0.1
    lying = served.catalogue.with_name("lying.json")
    lying.write_text(json.dumps(content))
    soak = ("--shape", "soak", "--load", "30", "--soak-s", "3", "--items", "20", "--connections", "8")
    pace = ("--publish-every-s", "0.2", "--token-file", str(served.token))
    ended = locust(tmp_path, served.url, lying, *soak, *pace, *PATIENT, "ScoringUser", "PublishingUser")
    assert ended.code == 1, ended.said
    assert ended.results["wrong"] > 0
    assert "these are not the scores of" in ended.said


def test_one_answer_by_a_stranger_fails_the_test(tmp_path: Path) -> None:
    """Law: a single answer, of any number, that names a revision which was never live makes the process exit with 1."""
    options = ("--shape", "soak", "--load", "60", "--soak-s", "1.5", "--connections", "4")
    with stub(Behaviour(stranger_at=60)) as url:
        ended = locust(tmp_path, url, stub_catalogue(tmp_path), *options, *PATIENT, *ALONE)
    assert ended.code == 1, ended.said
    assert ended.results["wrong"] == 1
    assert ended.results["changes"]["requests"] == 0


def test_an_open_loop_counts_from_when_a_request_was_due(tmp_path: Path) -> None:
    """Law: a server that stands still for a second is late for all that fell due then, not only for those it held."""
    still = {"stall_at": 40, "stall_s": 1.5}
    options = ("--shape", "soak", "--soak-s", "3")
    due = ("--load", "50", "--connections", "2")
    users = ("--load", "2", "--pacing", "closed")
    medians = []
    for loop in (due, users):
        with stub(Behaviour(**still)) as url:
            ended = locust(tmp_path, url, stub_catalogue(tmp_path), *options, *loop, *PATIENT, *ALONE)
        assert ended.code == 0, ended.said
        medians.append(ended.results["stages"][0]["p50_ms"])
    # two thirds of what is counted fell due while it stood still; users that wait for answers hardly noticed
    assert medians[0] > 250
    assert medians[1] < medians[0] / 2


def test_steps_past_the_knee_end_early_and_say_so(tmp_path: Path) -> None:
    """Law: steps end two past the knee; where no load holds there is no knee, and the process exits with 1."""
    options = (
        "--shape",
        "step",
        "--load",
        "5",
        "--factor",
        "2",
        "--stages",
        "9",
        "--stage-s",
        "1",
        "--connections",
        "2",
    )
    with stub(Behaviour()) as url:
        ended = locust(tmp_path, url, stub_catalogue(tmp_path), *options, "--p99-ms", "0.001", *ALONE)
    assert ended.code == 1, ended.said
    assert ended.results["knee"] is None
    assert 2 <= len(ended.results["stages"]) <= 5
    assert "FAILS: knee" in ended.said


def test_a_token_goes_only_where_the_certificate_holds(tmp_path: Path) -> None:
    """Law: over https the server's certificate must be of a known authority; SSL_CERT_FILE names a private one."""
    certificates, catalogue = make_certificates(tmp_path), stub_catalogue(tmp_path)
    options = ("--shape", "soak", "--load", "20", "--soak-s", "1", "--connections", "2", *PATIENT, *ALONE)
    with stub(Behaviour(), certificates) as url:
        stranger = locust(tmp_path, url, catalogue, *options)
        known = locust(tmp_path, url, catalogue, *options, SSL_CERT_FILE=str(certificates.ca))
    assert stranger.code == 2, stranger.said
    assert stranger.results is None
    assert known.code == 0, known.said


def test_a_test_that_cannot_run_exits_with_2(served: Served, tmp_path: Path) -> None:
    """Law: without a server, or without a token that may read, nothing runs, and the message says what is missing."""
    (tmp_path / "wrong").write_text("no-such-token")
    refused = locust(tmp_path, served.url, served.catalogue, "--token-file", str(tmp_path / "wrong"))
    assert refused.code == 2
    assert "GET /adapters answered 401" in refused.said
    nobody = locust(tmp_path, "http://127.0.0.1:9", stub_catalogue(tmp_path))
    assert nobody.code == 2
    assert "answered nothing" in nobody.said
