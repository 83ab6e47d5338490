"""What the probes found, candidate by candidate, and which divisions are chosen for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.chooser.candidates import Candidate
from training.chooser.estimate import Estimate
from training.tables import Table


@dataclass(frozen=True)
class Finding:
    """One candidate as probed; all figures are of the judged rows, in nats a row.

    Args:
        candidate: the division.
        gain: what a row gains by its own domain's adapter over another's, less what it gains so in the placebo.
        over_backbone: what it gains by its own domain's adapter over the backbone.
        divergence: how far the domains' adapters disagree about a click, less the same of the placebo.
        covered: share of the rows that lie in a domain.
    """

    candidate: Candidate
    gain: Estimate
    over_backbone: Estimate
    divergence: Estimate
    covered: float

    def fault(self) -> str | None:
        """Why it is not worth adapters; None where it is."""
        if not self.gain.positive():
            return "not shown to divide better than chance"
        if not self.over_backbone.positive():
            return "not shown to be better than the backbone"
        return None

    def record(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "origin": self.candidate.origin,
            "division": self.candidate.division.model_dump(mode="json"),
            "gain": self.gain.record(),
            "over_backbone": self.over_backbone.record(),
            "divergence": self.divergence.record(),
            "covered": self.covered,
        }


@dataclass(frozen=True)
class Ranking:
    """All candidates, the best first.

    Args:
        findings: by their gain, falling.
        skipped: column to why it was not tried.
        most: divisions that are chosen, at most.
        confidence: of the intervals, over all candidates together.
    """

    findings: tuple[Finding, ...]
    skipped: Mapping[str, str]
    most: int
    confidence: float

    @classmethod
    def of(cls, findings: Sequence[Finding], skipped: Mapping[str, str], most: int, confidence: float) -> Ranking:
        """Rank findings; of equal ones the earlier candidate stands first."""
        return cls(tuple(sorted(findings, key=lambda found: -found.gain.value)), skipped, most, confidence)

    @property
    def chosen(self) -> tuple[Candidate, ...]:
        """The divisions to train with: the best of those that are worth it."""
        worth = [found.candidate for found in self.findings if found.fault() is None]
        return tuple(worth[: self.most])

    def line(self) -> str:
        """The outcome in one line."""
        names = ", ".join(candidate.division.name for candidate in self.chosen)
        tried = f"of {len(self.findings)} candidates"
        return f"auxiliary divisions: {names}, {tried}" if names else f"auxiliary divisions: none, {tried}"

    def table(self) -> Table:
        """Every candidate with its intervals."""
        header = ("division", "of", "domains", "rows inside", "gain", "over backbone", "divergence", "chosen")
        return Table("Divisions", header, [self._row(found) for found in self.findings])

    def record(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "confidence": self.confidence,
            "chosen": [candidate.division.name for candidate in self.chosen],
            "candidates": {found.candidate.division.name: found.record() for found in self.findings},
            "skipped": dict(self.skipped),
        }

    def _row(self, found: Finding) -> list[str]:
        division = found.candidate.division
        fault = found.fault()
        verdict = "yes" if found.candidate in self.chosen else fault or "a better one is"
        figures = [str(each) for each in (found.gain, found.over_backbone, found.divergence)]
        return [division.name, division.of, str(len(division.domains)), f"{found.covered:.0%}", *figures, verdict]
