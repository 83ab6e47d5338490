"""The first 100 scores of a domain that is not in memory, against the same scores once it is; the Ali-CCP network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.bench.cold import COLD, WARM, Cold
from benchmarks.bench.part import Asked, measured
from benchmarks.claims.engine_lines import absent, within
from benchmarks.claims.line import Line
from benchmarks.claims.workplace import Workplace

SHAPE = "Ali-CCP"
BOUNDS = {("redis", "fp32"): 1.6, ("redis", "bf16"): 3.5, ("prepared", "fp32"): 1.2, ("prepared", "bf16"): 1.7}
SAID = {"redis": "from Redis", "prepared": "from its local prepared blob"}


def lines(work: Workplace) -> Iterator[Line]:
    """Both sources in both precisions."""
    for source, precision in BOUNDS:
        asked = Asked("cold", SHAPE, precision=precision, subject=source, quick=work.quick)
        yield judged(measured(asked, Cold, work.folder / "bench"))


def judged(found: Cold) -> Line:
    """One line."""
    bound = BOUNDS[found.source, found.precision]
    claim = f"{found.shape} {found.precision}: first 100 scores of a cold domain {SAID[found.source]}, over warm"
    if found.trial is None:
        return absent(claim, f"<= {bound:g}x", found.absent)
    line = within(claim, found.trial, COLD, WARM, bound)
    if found.source != "prepared":
        return line
    told = replace(line, figure=f"{line.figure}; {found.blobs} of {found.loads} loads took a prepared blob")
    # the first domain may bring what all share; a figure of loads that took no blob is a figure of something else
    return told if found.blobs >= found.loads - 1 else replace(told, verdict="falls short")
