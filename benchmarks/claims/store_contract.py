"""The contract suite on every backend, and a store that ignores preconditions."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from adapters_store.errors import StoreError, StoreRefused
from adapters_store.store import AdapterStore
from adapters_store.urls import open_backend
from benchmarks.claims.line import Line, not_measurable
from benchmarks.claims.servers import KEYS, wait_until
from benchmarks.claims.workplace import ROOT, ClaimError, Workplace, free_port

SUITE = ROOT / "tests" / "adapters_store"
# Backend to the class of its contract tests.
CLASSES = {
    "memory": "TestMemory",
    "file": "TestFile",
    "redis standalone": "TestOneServer",
    "redis sentinel": "TestSentinel",
    "redis cluster": "TestCluster",
    "s3": "TestObjects",
    "redis+s3": "TestLayered",
    "Ceph RGW": "TestCeph",
}


def file_of(name: str) -> Path:
    """The test file that has this class.

    Raises:
        ClaimError: none has.
    """
    for path in sorted(SUITE.glob("test_*.py")):
        if f"class {name}(BackendContract):" in path.read_text():
            return path
    raise ClaimError(f"no test of the store's suite has the class {name}: name its new one here")


def laws() -> int:
    """How many laws the contract has."""
    tree = ast.parse((SUITE / "contract.py").read_text())
    contract = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "BackendContract")
    return sum(isinstance(n, (ast.AsyncFunctionDef, ast.FunctionDef)) and n.name[:5] == "test_" for n in contract.body)


def outcome(work: Workplace, name: str) -> Counter[str]:
    """How the tests of one class ended: passed, failed or skipped, and `laws`: different names among those passed."""
    report = work.folder / f"{name}.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}"]
    with (work.folder / f"{name}.log").open("wb") as log:
        subprocess.run([*command, f"{file_of(name)}::{name}"], cwd=ROOT, stdout=log, stderr=log, timeout=900)
    found: Counter[str] = Counter()
    passed = set()
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        kind = next((c.tag for c in case if c.tag in ("failure", "error", "skipped")), "passed")
        found[kind] += 1
        if kind == "passed":
            passed.add(case.attrib["name"].split("[")[0])
    found["laws"] = len(passed)
    return found


@contextlib.contextmanager
def rclone(folder: Path) -> Iterator[str]:
    """The URL of a store on `rclone serve s3`, which ignores preconditions."""
    port = free_port()
    own = Path(sys.executable).with_name("rclone")
    program = str(own) if own.exists() else shutil.which("rclone") or ""
    (folder / "bucket").mkdir()
    command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", "test,testtest", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(answers, "rclone to listen")
        yield f"s3://bucket/store?endpoint=http%3A%2F%2F127.0.0.1%3A{port}&region=us-east-1"
    finally:
        server.kill()
        server.wait()


async def refusal(url: str) -> str:
    """What a first write to a store is answered with."""
    store = AdapterStore(open_backend(url, create=True), time.time)
    try:
        revision = await store.put(b"an adapter")
        await store.set_live("a", "theme", revision, by="claims")
    except StoreRefused as error:
        return f"refused: {error}"
    except StoreError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        await store.close()
    return "written"


def lines(work: Workplace) -> Iterator[Line]:
    """A line a backend, and one for the store that must be refused."""
    count = laws()
    for backend, name in CLASSES.items():
        claim, bound = f"contract suite on {backend}", f"all {count} laws pass"
        found = outcome(work, name)
        bad = found["failure"] + found["error"]
        if found["skipped"] and not found["passed"] and not bad:
            yield not_measurable(claim, bound, "install the Debian packages that `make test-ceph` names")
            continue
        figure = f"{found['laws']} laws in {found['passed']} tests passed, {bad} failed, {found['skipped']} skipped"
        holds = found["laws"] >= count and not bad and not found["skipped"]
        yield Line(claim, figure, bound, "holds" if holds else "falls short")
    os.environ.update(dict(zip(KEYS, ("test", "testtest", "us-east-1"), strict=True)))
    with tempfile.TemporaryDirectory() as folder, rclone(Path(folder)) as url:
        said = asyncio.run(refusal(url))
    claim = "writing to a store that ignores preconditions (rclone serve s3)"
    yield Line(claim, said, "refused, with the reason", "holds" if said.startswith("refused: ") else "falls short")
