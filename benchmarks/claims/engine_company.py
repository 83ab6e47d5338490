"""Batch invariance: each row's score among 1,000 random batches is the score that it has alone."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.bench.company import ENGINES, Company
from benchmarks.bench.part import Asked, measured
from benchmarks.claims.engine_lines import absent
from benchmarks.claims.line import Line, at_most, exactly
from benchmarks.claims.workplace import Workplace

COMPOSITIONS = 1000
INTERPRETED = 20  # batches for Triton's interpreter, where one takes seconds; torch's operators are given all 1,000
TOLERANCE = 2e-6


def lines(work: Workplace) -> Iterator[Line]:
    """Every engine."""
    for engine in ENGINES:
        interpreted = "interpreter" in engine
        count = 2 if work.quick else INTERPRETED if interpreted else COMPOSITIONS
        asked = Asked("company", "MovieLens", subject=engine, quick=work.quick or interpreted, count=count)
        environment = {"TRITON_INTERPRET": "1"} if interpreted else {}
        yield judged(measured(asked, Company, work.folder / "bench", environment))


def judged(found: Company) -> Line:
    """One line: native ones bit for bit, the others by distance."""
    claim = f"{found.engine}: {found.compositions:,} random batches, {found.segments:,} segments"
    if found.absent:
        return absent(f"{found.engine}: random batches", "the same score in each", found.absent)
    if found.engine.startswith("native"):
        return exactly(f"{claim}: with other bits than alone", found.changed, 0)
    return at_most(f"{claim}: max |dp| to the same alone", found.distance, TOLERANCE, digits=9)
