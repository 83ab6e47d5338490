"""One claim as it is printed: the figure, its bound and the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["holds", "falls short", "measured", "not measurable here"]
_ESCAPED = "\\|"  # a bar within a cell would begin the next one


@dataclass(frozen=True)
class Line:
    """A measured claim.

    Args:
        claim: what is promised, in a few words.
        figure: what was measured, with its unit.
        bound: what it must reach; empty where the issue asks for the figure only.
        verdict: `measured` is for figures without a bound.
        why: only for `not measurable here`.
    """

    claim: str
    figure: str
    bound: str
    verdict: Verdict
    why: str = ""

    def __str__(self) -> str:
        bound = f" (bound: {self.bound})" if self.bound else ""
        why = f": {self.why}" if self.why else ""
        return f"{self.verdict:>11}  {self.claim}: {self.figure}{bound}{why}"

    def row(self) -> str:
        """This line as a row of a Markdown table."""
        why = f": {self.why}" if self.why else ""
        cells = (self.claim, self.figure, self.bound or "-", f"{self.verdict}{why}")
        return f"| {' | '.join(cell.replace('|', _ESCAPED) for cell in cells)} |"


def at_most(claim: str, value: float, bound: float, unit: str = "", digits: int = 3) -> Line:
    """A claim that holds when `value` <= `bound`; NaN falls short."""
    verdict: Verdict = "holds" if value <= bound else "falls short"
    return Line(claim, f"{value:.{digits}f}{unit}", f"<= {bound:g}{unit}", verdict)


def at_least(claim: str, value: float, bound: float, unit: str = "", digits: int = 4) -> Line:
    """A claim that holds when `value` >= `bound`; NaN falls short."""
    verdict: Verdict = "holds" if value >= bound else "falls short"
    return Line(claim, f"{value:.{digits}f}{unit}", f">= {bound:g}{unit}", verdict)


def exactly(claim: str, value: object, expected: object) -> Line:
    """A claim that holds when `value` equals `expected`."""
    return Line(claim, str(value), f"= {expected}", "holds" if value == expected else "falls short")


def measured(claim: str, figure: str) -> Line:
    """A figure that has no bound."""
    return Line(claim, figure, "", "measured")


def between(claim: str, value: float, low: float, high: float, unit: str = "", digits: int = 3) -> Line:
    """A claim that holds when `low` <= `value` <= `high`; NaN falls short."""
    verdict: Verdict = "holds" if low <= value <= high else "falls short"
    return Line(claim, f"{value:.{digits}f}{unit}", f"{low:g} to {high:g}{unit}", verdict)


def not_measurable(claim: str, bound: str, why: str) -> Line:
    """A claim that this machine cannot measure, and what it lacks."""
    return Line(claim, "-", bound, "not measurable here", why)
