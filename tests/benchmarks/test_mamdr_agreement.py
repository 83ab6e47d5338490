"""Laws of the comparison of gradients under Domain Negotiation and under alternate training."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.claims.mamdr_agreement import DRAWS, POINTS, compared, plan
from benchmarks.claims.mamdr_contest import Row

ROWS = {
    name: Row({"framework": name, "inner": {"lr": 0.003}}, tuple({"epoch": epoch} for epoch in epochs))
    for name, epochs in (("alternate", (12, 3)), ("dn", (33, 28)))
}


def test_every_seed_is_trained_as_recorded_to_the_epoch_that_was_chosen() -> None:
    """Law: configurations, seeds and last epochs are the record's; seed 0 alone is looked at on the way."""
    found = {(one.trial.checked().framework, one.trial.seed): one for one in plan(ROWS, Path("data"))}
    assert {key: one.epochs[-1] for key, one in found.items()} == {
        ("alternate", 0): 12, ("alternate", 1): 3, ("dn", 0): 33, ("dn", 1): 28,
    }  # fmt: skip
    assert all(one.draws == DRAWS and one.trial.checked().inner.lr == 0.003 for one in found.values())
    for (_, seed), one in found.items():
        assert (POINTS - 2 <= len(one.epochs) <= POINTS + 4) if seed == 0 else len(one.epochs) == 1
    assert len({one.key.name for one in found.values()}) == 4


@pytest.mark.parametrize(
    ("alternate", "dn", "verdict", "more"),
    [
        ([1.0, 1.1, 0.9], [2.0, 2.2, 1.9], "holds", "3 of 3"),
        ([1.0, 1.1, 0.9], [1.2, 0.9, 1.4], "falls short", "2 of 3"),  # more in the mean, and no more than seeds differ
        ([2.0, 2.1, 1.9], [1.0, 1.1, 0.9], "falls short", "0 of 3"),
        ([1.0], [2.0], "falls short", "1 of 1"),  # one seed tells nothing apart
    ],
)
def test_more_holds_where_the_seeds_tell_it_apart(
    alternate: list[float], dn: list[float], verdict: str, more: str
) -> None:
    """Law: a mean that lies above is not enough."""
    line = compared("claim", [alternate, dn])
    assert line.verdict == verdict
    assert f"more in {more} seeds" in line.figure
