"""Prometheus scrapes a service under `make load`: panels and rules find data; boards and metrics are well formed."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.claims.line import Line, exactly, measured, not_measurable
from benchmarks.claims.stirring import stirring
from benchmarks.claims.workplace import ROOT, ClaimError, Workplace, free_port, run

BOARDS = ROOT / "helm" / "espalier" / "dashboards"
RULES = ROOT / "helm" / "espalier" / "rules"
PATIENCE_S = 300.0
INTERVAL = "20s"
_PROMETHEUS = """\
global: {{scrape_interval: 1s, evaluation_interval: 5s}}
rule_files: [{rules}/*.yaml]
scrape_configs:
  - job_name: espalier
    authorization: {{credentials_file: {token}}}
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
_NPM = {"private": True, "dependencies": {"@grafana/schema": "11.6.0", "typescript": "5.8.3"}}


@dataclass(frozen=True)
class Load:
    """`make load` while it runs.

    Args:
        folder: its files.
        port: of the server that it started.
    """

    folder: Path
    port: int

    @property
    def store(self) -> str:
        """URL of the store that its server serves from."""
        return (self.folder / "store").as_uri()

    @property
    def url(self) -> str:
        """Of its server."""
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def loading(work: Workplace) -> Iterator[tuple[Load, subprocess.Popen[bytes]]]:
    """The load test as `make load` runs it, once its server listens."""
    folder, log = work.folder / "load", work.folder / "load.log"
    shutil.rmtree(folder / "store", ignore_errors=True)  # a catalogue lists what an earlier run stirred, too
    command = [sys.executable, "-m", "loadtest", "--folder", str(folder), *(("--stages", "5") if work.quick else ())]
    # what the load test leaves off and a board shows: its server takes feedback, and every domain has figures
    shown = {"ESPALIER_FEEDBACK_DIR": str(work.folder / "load-feedback"), "ESPALIER_METRIC_DOMAINS": "200"}
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink, env={**os.environ, **shown})
    try:
        yield Load(folder, _port_of_server(process, log)), process
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.terminate()
            process.terminate()
        process.wait(60)


def _port_of_server(process: subprocess.Popen[bytes], log: Path) -> int:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and process.poll() is None:
        for child in psutil.Process(process.pid).children():
            with contextlib.suppress(psutil.Error, ValueError, IndexError, httpx.HTTPError):
                command = child.cmdline()
                port = int(command[command.index("--port") + 1]) if "serve" in command else 0
                if port and httpx.get(f"http://127.0.0.1:{port}/healthz/ready").status_code == 200:
                    return port
        time.sleep(0.5)
    raise ClaimError(f"the load test started no server\n{log.read_text(errors='replace')[-2000:]}")


@contextlib.contextmanager
def prometheus(binary: str, work: Workplace, load: Load) -> Iterator[str]:
    """A Prometheus with our rules that scrapes the server; its URL."""
    folder, port = work.folder / "prometheus", free_port()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = folder / "prometheus.yml"
    config.write_text(_PROMETHEUS.format(rules=RULES, token=load.folder / "token", port=load.port))
    command = [binary, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command.append(f"--web.listen-address=127.0.0.1:{port}")
    with (folder / "log").open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def queries() -> Iterator[tuple[str, str]]:
    """Board and panel, and what the panel asks, of every panel of every committed board.

    A zero that a panel shows where nothing is counted is taken out, so that each has to find what it counts: but for
    errors of the store, which a load test has none of.
    """
    for path in sorted(BOARDS.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                expression = target["expr"].replace("$__rate_interval", INTERVAL)
                if "espalier_store_errors_total" not in expression:
                    expression = expression.replace(" or vector(0)", "")
                yield f"{path.stem}: {panel['title']}", expression.replace("$job", ".*").replace("$instance", ".*")


def has_data(url: str, expression: str, start: float, end: float) -> bool:
    """Whether a query has a number in the time between; NaN is none."""
    asked = {"query": expression, "start": str(start), "end": str(end), "step": "2"}
    answer = httpx.get(f"{url}/api/v1/query_range", params=asked, timeout=60)
    answer.raise_for_status()
    series: list[dict[str, Any]] = answer.json()["data"]["result"]
    return any(not math.isnan(float(value)) for one in series for _, value in one["values"])


def typed(work: Workplace) -> Line:
    """The boards held to Grafana's own types."""
    claim, bound = "dashboards: errors of tsc --strict against @grafana/schema", "= 0"
    if shutil.which("npm") is None:
        return not_measurable(claim, bound, "npm is not installed")
    folder = work.folder / "tsc"
    folder.mkdir(exist_ok=True)
    (folder / "package.json").write_text(json.dumps(_NPM))
    run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"], folder, work.folder / "npm.log", 600)
    for path in BOARDS.glob("*.json"):
        head = "import type { Dashboard } from '@grafana/schema';\nexport const board: Dashboard = "
        (folder / f"{path.stem}.ts").write_text(f"{head}{path.read_text()};\n")
    files = sorted(path.name for path in folder.glob("*.ts"))
    command = ["node_modules/.bin/tsc", "--strict", "--noEmit", "--skipLibCheck", *files]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = done.stdout.count("error TS")
    told: int | str = f"tsc ended with {done.returncode}" if done.returncode and not found else found
    return exactly(f"{claim} ({len(files)} boards)", told, 0)


def promtool(*arguments: str, stdin: bytes = b"") -> tuple[int, str]:
    """Exit status and output."""
    done = subprocess.run(["promtool", *arguments], input=stdin, capture_output=True, check=False)
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")


def lines(work: Workplace) -> Iterator[Line]:
    """Boards first, then all of them against a live Prometheus."""
    yield typed(work)
    binary = shutil.which("prometheus")
    if binary is None:
        yield not_measurable("panels and rules against Prometheus", "all", "prometheus is not installed")
        return
    with loading(work) as (load, process), prometheus(binary, work, load) as url:
        started = time.time()
        token = work.secrets["token of make load"] = (load.folder / "token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        with stirring(load.folder, load.store, load.url, token):
            shown = httpx.get(f"{load.url}/metrics", headers=headers).raise_for_status()
            process.wait(1800)
        ended = time.time()
        yield exactly("`make load` under Prometheus: exit status", process.returncode, 0)
        asked = list(queries())
        empty = [name for name, expression in asked if not has_data(url, expression, started, ended)]
        yield exactly(f"panels: of {len(asked)} queries, without data", len(empty), 0)
        if empty:
            yield measured("panels without data", "; ".join(empty))
        rules = httpx.get(f"{url}/api/v1/rules").raise_for_status().json()["data"]["groups"]
        sick = [rule["name"] for group in rules for rule in group["rules"] if rule["health"] != "ok"]
        yield exactly(f"rules: of {sum(len(g['rules']) for g in rules)}, not evaluated without fault", sick, [])
    status, told = promtool("check", "metrics", stdin=shown.content)
    yield exactly(f"promtool check metrics ({_last(told)})", status, 0)


def _last(told: str) -> str:
    kept: Sequence[str] = told.strip().splitlines()
    return kept[-1][:200] if kept else "it says nothing"
