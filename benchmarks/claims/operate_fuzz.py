"""Coverage-guided fuzzing (atheris, libFuzzer) of what strangers reach: the artifact reader and the score body."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np

from benchmarks.claims.line import Line, at_least, at_most, exactly, measured
from benchmarks.claims.served import last_epoch_run
from benchmarks.claims.workplace import ROOT, ClaimError, Workplace

INPUTS = 200_000
SLOPE = 0.01  # of resident memory, in 100,000 inputs
TARGETS = ("artifact", "score")


def slope_per_100k(inputs: list[int], resident: list[int]) -> float:
    """Growth of resident memory over the last 80% of a run, as a share of its median, in 100,000 inputs."""
    start = len(inputs) // 5
    x, y = np.array(inputs[start:], np.float64), np.array(resident[start:], np.float64)
    return float(np.polyfit(x, y, 1)[0] * 100_000 / np.median(y))


def lines(work: Workplace) -> Iterator[Line]:
    """Both targets, each in a process of its own."""
    run = last_epoch_run(work)
    inputs = 4000 if work.quick else INPUTS
    for target in TARGETS:
        out = work.folder / f"fuzz-{target}.txt"
        out.unlink(missing_ok=True)
        log = out.with_suffix(".log")
        command = [
            sys.executable,
            "-m",
            "benchmarks.claims.fuzzing",
            target,
            str(run.folder),
            str(inputs),
            str(out),
        ]
        with log.open("wb") as sink:
            done = subprocess.run(
                command, cwd=ROOT, stdout=sink, stderr=sink, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
        told = log.read_text(errors="replace")
        if not out.exists():
            raise ClaimError(f"the fuzzer of {target} did not run\n{told[-2000:]}")
        looks = [line.split() for line in out.read_text().splitlines()]
        seen, resident = [int(look[0]) for look in looks], [int(look[1]) for look in looks]
        crashed = done.returncode != 0
        yield exactly(f"fuzzing the {target}: crashes and hangs", int(crashed), 0)
        if crashed:
            yield measured(f"fuzzing the {target}: the end of its log", told[-300:].replace("\n", " "))
        yield at_least(f"fuzzing the {target}: inputs", seen[-1], inputs, digits=0)
        yield at_most(
            f"fuzzing the {target}: growth of resident memory over the last 80%, per 100,000 inputs",
            100 * slope_per_100k(seen, resident),
            100 * SLOPE,
            "%",
        )
