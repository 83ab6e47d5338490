"""The torch engine on one GPU, where one is at hand; else that its benchmark runs, on the CPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.claims.engine_lines import absent
from benchmarks.claims.line import Line, at_least, measured
from benchmarks.claims.workplace import ROOT, Workplace

RATIO = 0.7
CLAIM = "Ali-CCP on a GPU: MultiLoRA's kernels against the faster plain backbone, 32 x 100"
MULTI, CEILING = "MultiLoRA, kernels", "ceiling: products, float32"
TIMEOUT_S = 1200


def lines(work: Workplace) -> Iterator[Line]:
    """Measured where torch finds a CUDA device."""
    if not has_gpu():
        yield absent(CLAIM, f">= {RATIO:g}", "no GPU")
        yield runs_on_cpu()
        return
    shape = ["--shapes", "Ali-CCP"]
    yield from judged(_output([*shape, *(["--requests", "4", "--rounds", "3"] if work.quick else [])]))


def has_gpu() -> bool:
    """Whether torch is installed and finds a CUDA device; asked of another process, so that none is held here."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def runs_on_cpu() -> Line:
    """Whether the script goes through all that needs no GPU, in Triton's interpreter."""
    try:
        _output(["--device", "cpu"], {"TRITON_INTERPRET": "1"})
    except subprocess.SubprocessError as error:
        return Line("benchmarks.gpu_ratio runs, on the CPU", str(error)[:200], "it does", "falls short")
    return Line("benchmarks.gpu_ratio runs, on the CPU", "it does", "it does", "holds")


def judged(output: str) -> Iterator[Line]:
    """Lines from what the script printed."""
    rates = {name: rate_of(output, name) for name in (MULTI, CEILING, "MultiLoRA, run")}
    rate, ratio = rates[MULTI]
    yield at_least(f"{CLAIM} ({rate:,.0f} rows/s)", ratio, RATIO, digits=3)
    ceiling = rates[CEILING][0]
    yield measured("Ali-CCP on a GPU: MultiLoRA's kernels, share of the product ceiling", f"{rate / ceiling:.3f}")
    yield measured(
        "Ali-CCP on a GPU: MultiLoRA through the engine, copies included", f"{rates['MultiLoRA, run'][0]:,.0f} rows/s"
    )


def rate_of(output: str, name: str) -> tuple[float, float]:
    """Rows/s and ratio of one row of the script's table; NaN where there is none."""
    found = re.search(rf"^\s*{re.escape(name)}\s+([\d,]+) rows/s\s+([\d.]+)", output, re.MULTILINE)
    if found is None:
        return float("nan"), float("nan")
    return float(found[1].replace(",", "")), float(found[2])


def _output(options: list[str], environment: dict[str, str] | None = None) -> str:
    command = [sys.executable, "-m", "benchmarks.gpu_ratio", *options]
    given = {**os.environ, **(environment or {})}
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    return done.stdout
