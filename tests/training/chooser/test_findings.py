"""Which divisions are chosen for what was found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from features.fields import Division
from training.chooser.candidates import Candidate
from training.chooser.estimate import Estimate
from training.chooser.findings import Finding, Ranking


def finding(name: str, gain: float, over_backbone: float = 0.05, half: float = 0.01) -> Finding:
    """A candidate whose intervals have this half width."""
    domains = (f"{name}-a", f"{name}-b")
    division = Division(name=name, natural=False, of="user", field=name, rule="value", domains=domains)
    gained, over = (Estimate(value, value - half, value + half) for value in (gain, over_backbone))
    return Finding(Candidate(division, "column"), gained, over, gained, 1.0)


def ranked(*findings: Finding, most: int = 1) -> Ranking:
    return Ranking.of(findings, {"tags": "holds lists"}, most, 0.95)


def names(ranking: Ranking) -> list[str]:
    return [candidate.division.name for candidate in ranking.chosen]


def test_best_gain_is_chosen() -> None:
    """Law: the ranking falls by gain, and the first `most` of those that are worth it are chosen."""
    ranking = ranked(finding("b", 0.02), finding("c", 0.005), finding("a", 0.03), most=2)
    assert [found.candidate.division.name for found in ranking.findings] == ["a", "b", "c"]
    assert names(ranking) == ["a", "b"]
    assert ranking.line() == "auxiliary divisions: a, b, of 3 candidates"


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (finding("x", 0.005), "better than chance"),
        (finding("x", 0.02, over_backbone=0.01), "better than the backbone"),
        (replace(finding("x", 1.0), gain=Estimate(1.0, None, None)), "better than chance"),
    ],
)
def test_what_is_not_shown_is_not_chosen(found: Finding, fault: str) -> None:
    """Law: an interval that reaches zero, or none at all, chooses nothing; the next candidate takes the place."""
    assert fault in str(found.fault())
    assert names(ranked(found)) == []
    assert ranked(found).line() == "auxiliary divisions: none, of 1 candidates"
    assert names(ranked(found, finding("worth", 0.0101))) == ["worth"]


def test_table_says_why_each_is_not_chosen() -> None:
    """Law: each candidate's row ends with yes, with its fault, or with that a better one is."""
    rows = ranked(finding("a", 0.03), finding("b", 0.02), finding("c", 0.0)).table().rows
    assert [row[0] for row in rows] == ["a", "b", "c"]
    assert [row[-1] for row in rows] == ["yes", "a better one is", "not shown to divide better than chance"]


def test_record_holds_what_was_skipped() -> None:
    """Law: the record has the choice, every candidate's numbers and division, and what was not tried."""
    record = ranked(finding("a", 0.03)).record()
    assert (record["chosen"], record["skipped"], record["confidence"]) == (["a"], {"tags": "holds lists"}, 0.95)
    assert record["candidates"]["a"]["gain"] == {"value": 0.03, "low": 0.03 - 0.01, "high": 0.03 + 0.01}
    assert record["candidates"]["a"]["division"]["domains"] == ["a-a", "a-b"]
