"""What many domains cost the native engine: more of them in a batch, and more of them in memory."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench.domains import FEW_RESIDENT, MANY, MANY_RESIDENT, ONE, Domains
from benchmarks.bench.part import Asked, measured
from benchmarks.bench.shapes import SHAPES
from benchmarks.claims.engine_lines import absent, within
from benchmarks.claims.line import Line
from benchmarks.claims.workplace import Workplace

BATCH = {"fp32": (1.15, 1.05), "bf16": (1.60, 1.20)}
RESIDENT = 1.15


def lines(work: Workplace) -> Iterator[Line]:
    """Every network in both precisions."""
    for shape in SHAPES:
        for precision in BATCH:
            for part in ("in_a_batch", "resident"):
                asked = Asked(part, shape.name, precision=precision, quick=work.quick)
                yield judged(part, measured(asked, Domains, work.folder / "bench"))


def judged(part: str, found: Domains) -> Line:
    """One line."""
    slow, fast = (MANY, ONE) if part == "in_a_batch" else (MANY_RESIDENT, FEW_RESIDENT)
    bound, aim = BATCH[found.precision] if part == "in_a_batch" else (RESIDENT, None)
    rows = f", {found.trial.rows:,} rows a batch" if found.trial else ""
    claim = f"{found.shape} {found.precision} {found.isa}: {fast} -> {slow}{rows}"
    if found.trial is None:
        return absent(claim, f"<= {bound:g}x", found.absent)
    return within(claim, found.trial, slow, fast, bound, aim)
