"""Coverage-guided fuzzing (atheris, libFuzzer) of what strangers reach: the artifact reader and the score body."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims.line import Line, at_least, at_most, exactly, measured
from benchmarks.claims.served import last_epoch_run
from benchmarks.claims.workplace import ROOT, ClaimError, Workplace

INPUTS = 200_000
LOOKS = 400  # at resident memory, over a run
SLOPE = 0.01  # of resident memory, in 100,000 inputs
TARGETS = ("artifact", "score")


def slope_per_100k(inputs: list[int], resident: list[int]) -> float:
    """Growth of resident memory over the last 80% of a run, as a share of its median, in 100,000 inputs."""
    start = len(inputs) // 5
    x, y = np.array(inputs[start:], np.float64), np.array(resident[start:], np.float64)
    return float(np.polyfit(x, y, 1)[0] * 100_000 / np.median(y))


def started(module: str, arguments: Sequence[str], log: Path, **pipes: Any) -> subprocess.Popen[bytes]:
    """One of the two processes, its words in `log`."""
    command = [sys.executable, "-m", f"benchmarks.claims.{module}", *arguments]
    with log.open("wb") as sink:
        return subprocess.Popen(
            command, cwd=ROOT, stdout=sink, stderr=sink, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes
        )


def fuzz(work: Workplace, run: Path, target: str, inputs: int) -> tuple[int, str, list[int], list[int]]:
    """Fuzz a target, and read every input once more in a process that nobody instruments.

    Returns:
        How many of the two processes did not end well, the end of their logs, and the looks of the second at its
        resident memory: inputs read so far, bytes.

    Raises:
        ClaimError: nothing was fuzzed.
    """
    corpus, looks = work.folder / f"fuzz-{target}.corpus", work.folder / f"fuzz-{target}.looks"
    shutil.rmtree(corpus, ignore_errors=True)
    looks.unlink(missing_ok=True)
    logs = [work.folder / f"fuzz-{target}-{name}.log" for name in ("again", "fuzzer")]
    out, into = os.pipe()
    again = started("fuzzed", [target, str(run), str(looks), str(max(1, inputs // LOOKS))], logs[0], stdin=out)
    fuzzer = started("fuzzing", [target, str(run), str(inputs), str(corpus), str(into)], logs[1], pass_fds=[into])
    os.close(out)
    os.close(into)  # the second process ends with the pipe
    ends = [fuzzer.wait(), again.wait()]
    told = " | ".join(log.read_text(errors="replace")[-1000:] for log in logs)
    found = [line.split() for line in looks.read_text().splitlines()] if looks.exists() else []
    if not found:
        raise ClaimError(f"the fuzzer of {target} did not run\n{told}")
    return sum(end != 0 for end in ends), told, [int(look[0]) for look in found], [int(look[1]) for look in found]


def lines(work: Workplace) -> Iterator[Line]:
    """Both targets, one after the other."""
    run = last_epoch_run(work)
    inputs = 4000 if work.quick else INPUTS
    for target in TARGETS:
        crashes, told, seen, resident = fuzz(work, run.folder, target, inputs)
        yield exactly(f"fuzzing the {target}: crashes and hangs", crashes, 0)
        if crashes:
            yield measured(f"fuzzing the {target}: the end of its log", told[-300:].replace("\n", " "))
        yield at_least(f"fuzzing the {target}: inputs", seen[-1], inputs, digits=0)
        yield at_most(
            f"fuzzing the {target}: growth of resident memory over the last 80%, per 100,000 inputs",
            100 * slope_per_100k(seen, resident),
            100 * SLOPE,
            "%",
        )
