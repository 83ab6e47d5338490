"""Lines from measured ratios: both attempts are printed, the last one is judged."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from benchmarks.bench import ours
from benchmarks.bench.rounds import Trial
from benchmarks.claims.line import Line, Verdict, measured, not_measurable


def reaches(claim: str, trial: Trial, name: str, base: str, bound: float, aim: float | None = None) -> Line:
    """`name` is at least `bound` times as fast as `base`; NaN falls short."""
    verdict: Verdict = "holds" if trial.ratio(name, base).median >= bound else "falls short"
    return Line(claim, f"{trial.said(name, base)}x", f">= {bound:g}x{_aim(aim)}", verdict)


def within(claim: str, trial: Trial, slow: str, fast: str, bound: float, aim: float | None = None) -> Line:
    """`slow` takes at most `bound` times as long as `fast`; NaN falls short."""
    verdict: Verdict = "holds" if trial.ratio(fast, slow).median <= bound else "falls short"
    return Line(claim, f"{trial.said(fast, slow)}x", f"<= {bound:g}x{_aim(aim)}", verdict)


def told(claim: str, trial: Trial, name: str, base: str) -> Line:
    """A ratio without a bound."""
    return measured(claim, f"{trial.said(name, base)}x")


def on_amx(line: Line, instruction_sets: Collection[str] | None = None) -> Line:
    """A bound that was set for AMX: without it a figure may hold, but not fall short.

    Args:
        line: as if there were AMX.
        instruction_sets: of the kernel; those of this processor by default.
    """
    here = ours.instruction_sets() if instruction_sets is None else instruction_sets
    if line.verdict != "falls short" or ours.AMX in here:
        return line
    why = "no AMX; the figure is that of the bfloat16 that there is"
    return replace(line, verdict="not measurable here", why=why)


def absent(claim: str, bound: str, why: str) -> Line:
    """A claim one side of which is not to be had here."""
    return not_measurable(claim, bound, why)


def _aim(aim: float | None) -> str:
    return "" if aim is None else f", aim {aim:g}"
