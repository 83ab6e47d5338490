"""The README's two commands in a fresh clone: how long, and that they do what they say."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from benchmarks.claims.line import Line, at_most, exactly
from benchmarks.claims.workplace import ROOT, ClaimError, Workplace, free_port, run


def clone(work: Workplace) -> Path:
    """HEAD of this checkout, cloned, with the shared data beside it."""
    outer = work.folder / "fresh"
    shutil.rmtree(outer, ignore_errors=True)
    outer.mkdir()
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(outer / "espalier")], check=True)
    (outer / "shared").symlink_to(work.data.parent, target_is_directory=True)
    return outer / "espalier"


def demo(checkout: Path, log: Path) -> tuple[float, int, str]:
    """`make demo` until its own printed /score command answers.

    Returns:
        Seconds to the first score, the HTTP status of that score, and whether Ctrl-C left anything running.
    """
    port = free_port()
    started = time.monotonic()
    with log.open("wb") as sink:
        process = subprocess.Popen(
            ["make", "demo", f"PORT={port}"], cwd=checkout, stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        status = first_score(process, checkout, log, started)
        seconds = time.monotonic() - started
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
    return seconds, status, left_behind(port, log)


def left_behind(port: int, log: Path) -> str:
    """What a clean stop leaves: nothing listening, no traceback, and the demo's own last word."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            return "a listening server"
    text = log.read_text(errors="replace")
    return "a traceback" if "Traceback" in text else "nothing" if "Stopped." in text else "no last word"


def first_score(process: subprocess.Popen[bytes], checkout: Path, log: Path, started: float) -> int:
    """Run the one-line curl command that the demo prints for /score, as a reader would; its HTTP status."""
    while time.monotonic() - started < 900:
        if process.poll() is not None:
            break
        found = re.search(r"^\s*(curl .*?/score.*)$", log.read_text(errors="replace"), re.MULTILINE)
        if found:
            command = found[1] + " --silent --output /dev/null --write-out '%{http_code}'"
            done = subprocess.run(["bash", "-c", command], cwd=checkout, capture_output=True, text=True)
            if done.stdout.strip().isdigit() and int(done.stdout) != 0:
                return int(done.stdout)
        time.sleep(0.1)
    raise ClaimError(f"make demo reached no score\n{log.read_text(errors='replace')[-3000:]}")


def lines(work: Workplace) -> Iterator[Line]:
    """`make demo`, then `make test`, in one fresh clone without a virtual environment."""
    checkout = clone(work)
    seconds, status, left = demo(checkout, work.folder / "demo.log")
    yield at_most("fresh clone, `make demo` to the first score by its printed command", seconds / 60, 5, " min", 1)
    yield exactly("fresh clone, status of the demo's printed /score command", status, httpx.codes.OK.value)
    yield exactly("fresh clone, what Ctrl-C on `make demo` leaves behind", left, "nothing")
    seconds = run(["make", "test"], checkout, work.folder / "test.log", 1800)
    log = (work.folder / "test.log").read_text(errors="replace")
    passed = next(line for line in reversed(log.splitlines()) if " passed" in line).strip("= ")
    yield at_most(f"fresh clone, `make test` ({passed})", seconds / 60, 10, " min", 1)
