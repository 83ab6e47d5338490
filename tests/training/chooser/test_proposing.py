"""Which divisions are tried."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from features.fields import Division
from training.chooser.candidates import Candidate, domains_of, sides_of
from training.chooser.proposing import Proposal, propose
from training.config import DivisionsConfig
from training.errors import ConfigError
from training.prepared import DatasetSpec, FieldSpec, PreparedDataset

ROWS, USERS = 600, 60


def data(**columns: Any) -> PreparedDataset:
    """600 rows of 60 users, ten each, and of three items; more columns of the users."""
    draw = np.random.default_rng(0)
    interactions = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(USERS), ROWS // USERS),
            "item_id": draw.integers(3, size=ROWS),
            "domain_id": ["only"] * ROWS,
            "label": draw.integers(2, size=ROWS),
        }
    )
    order = draw.permutation(USERS)  # the table's order is not that of the ids
    users = pl.DataFrame({"user_id": np.arange(USERS), **columns})[order]
    fields = (FieldSpec(name="user", kind="sparse", of="user", column="user_id", id=True),)
    natural = Division(name="theme", natural=True, of="domain", domains=("only",))
    return PreparedDataset(
        DatasetSpec(name="x", fields=fields, divisions=(natural,)),
        interactions,
        users,
        pl.DataFrame({"item_id": [2, 0, 1]}),
    )


def proposed(prepared: PreparedDataset, **changes: Any) -> Proposal:
    """Candidates, every row a training row; a domain needs twenty."""
    settings = DivisionsConfig.model_validate({"min_rows": 20, "counts": False, **changes})
    return propose(prepared, sides_of(prepared, np.arange(ROWS)), settings)


def domains(proposal: Proposal, candidate: Candidate) -> dict[int, str | None]:
    """User to domain."""
    side = sides_of(proposal.prepared, np.arange(ROWS))["user"]
    found: NDArray[np.int32] = domains_of(candidate, side)
    names = [*candidate.division.domains, None]
    return {user: names[position] for user, position in zip(side.frame["user_id"], found, strict=True)}


def test_column_divides_by_its_frequent_values() -> None:
    """Law: values with enough training rows are domains; users of other values, or of none, are in no domain."""
    values = ["a"] * 30 + ["b"] * 20 + ["rare"] + [None] * 9
    proposal = proposed(data(kind=values))
    (candidate,) = proposal.candidates
    assert candidate.division.domains == ("kind-a", "kind-b")
    found = domains(proposal, candidate)
    assert [found[user] for user in (0, 30, 50, 51)] == ["kind-a", "kind-b", None, None]
    assert candidate.column is None


def test_most_domains_keeps_the_largest() -> None:
    """Law: of more values than are allowed those with most rows stay."""
    values = ["a"] * 10 + ["b"] * 30 + ["c"] * 20
    (candidate,) = proposed(data(kind=values), most_domains=2).candidates
    assert candidate.division.domains == ("kind-b", "kind-c")


def test_numbers_are_cut_into_equal_bands() -> None:
    """Law: many numbers are cut into bands of about as many training rows each; a missing one has no band."""
    ages = np.random.default_rng(3).permutation(np.arange(USERS)).astype(float)
    ages[7] = np.nan
    proposal = proposed(data(age=ages), bands=4)
    (candidate,) = proposal.candidates
    assert (candidate.division.name, candidate.column) == ("age-band", "age-band")
    found = domains(proposal, candidate)
    assert found[7] is None
    counts = [list(found.values()).count(name) for name in candidate.division.domains]
    assert sum(counts) == USERS - 1
    assert max(counts) - min(counts) <= 1
    order = [found[user] for user in np.argsort(ages)[: USERS - 1].tolist()]
    assert order == sorted(order, key=str)


def test_few_integers_are_values() -> None:
    """Law: a column of few different integers divides by value."""
    (candidate,) = proposed(data(level=np.arange(USERS) % 3)).candidates
    assert candidate.division.domains == ("level-0", "level-1", "level-2")
    assert candidate.division.rule == "value"


def test_activity_follows_training_rows() -> None:
    """Law: users are also divided by their training rows, by a rule that training and export know."""
    prepared = data()
    heavy = prepared.interactions["user_id"] < 20
    rows = pl.concat([prepared.interactions, *[prepared.interactions.filter(heavy)] * 3])
    whole = replace(prepared, interactions=rows)
    sides = sides_of(whole, np.arange(len(rows)))
    proposal = propose(whole, sides, DivisionsConfig(columns=(), min_rows=20))
    activity = next(each for each in proposal.candidates if each.division.name == "user-activity")
    assert activity.division.rule == "count:40"
    found = dict(zip(sides["user"].frame["user_id"], domains_of(activity, sides["user"]), strict=True))
    assert {user: int(found[user]) for user in (0, 19, 20, 59)} == {0: 1, 19: 1, 20: 0, 59: 0}


def test_declared_division_is_tried_once() -> None:
    """Law: a declared auxiliary division is a candidate, and its column is not tried a second time."""
    prepared = data(kind=["a"] * 30 + ["b"] * 30)
    declared = Division(name="sort", natural=False, of="user", field="kind", rule="value", domains=("sort-a", "sort-b"))
    spec = prepared.spec.model_copy(update={"divisions": (*prepared.spec.divisions, declared)})
    assert [each.division for each in proposed(replace(prepared, spec=spec)).candidates] == [declared]


def test_what_cannot_divide_is_skipped_with_its_reason() -> None:
    """Law: lists, single values and values that are no ids are not tried, and the reason is kept."""
    proposal = proposed(
        data(tags=[["a"]] * USERS, same=["x"] * USERS, odd=["a b"] * 30 + ["c/d"] * 30, flat=[1.5] * USERS)
    )
    assert proposal.candidates == ()
    assert set(proposal.skipped) == {"tags", "same", "odd", "flat"}
    assert "List" in proposal.skipped["tags"]
    assert "fewer than two values with 20" in proposal.skipped["same"]
    assert proposal.skipped["odd"] == "fewer than two of its 2 values make domain ids (letters, digits, _:=.-)"


def test_names_that_are_taken_are_skipped() -> None:
    """Law: no domain stands in two candidates, and none has the name of a natural one."""
    prepared = data(kind=["a"] * 30 + ["b"] * 30)
    natural = prepared.spec.divisions[0].model_copy(update={"domains": ("only", "kind-a")})
    spec = prepared.spec.model_copy(update={"divisions": (natural,)})
    proposal = proposed(replace(prepared, spec=spec))
    assert proposal.candidates == ()
    assert "taken" in proposal.skipped["kind"]


def test_unknown_column_is_refused() -> None:
    """Law: a column that is not there is an error that names it and those that are."""
    with pytest.raises(ConfigError, match=r"'kinds'.*they have kind"):
        proposed(data(kind=["a"] * USERS), columns=["kinds"])


def test_clusters_become_a_column_of_the_table() -> None:
    """Law: each user's cluster stands in that user's line; small clusters and users without one are in no domain."""
    prepared = data()
    side = sides_of(prepared, np.arange(ROWS))["user"]
    number = np.repeat([0, 1, 2, -1], [30, 27, 1, 2])
    proposal = proposed(prepared).with_clusters("user", number, side, least=20)
    (candidate,) = proposal.candidates
    assert candidate.division.domains == ("user-cluster-1", "user-cluster-2")
    found = domains(proposal, candidate)
    order = side.frame["user_id"].to_list()
    assert [found[order[i]] for i in (0, 30, 57, 58)] == ["user-cluster-1", "user-cluster-2", None, None]
    assert proposal.prepared.users["user_id"].to_list() == prepared.users["user_id"].to_list()
    few = proposed(prepared).with_clusters("user", np.zeros(USERS, np.int64), side, least=20)
    assert "user-cluster" in few.skipped
