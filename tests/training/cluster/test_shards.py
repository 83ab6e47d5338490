"""Laws of a parameter shard."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.training.cluster.tasks import normal
from training.cluster.client import DirectLink, ParameterClient
from training.cluster.combining import Combination, Combine
from training.cluster.placement import Placement
from training.cluster.shards import ParameterShard
from training.frameworks.optimizers import Rule

SGD = Rule("sgd", 0.5)
DENSE = {"weight": normal(1, 3, 2), "bias": normal(2, 3)}
TABLE = normal(3, 11, 4)


def started(shards: int, rule: Rule = SGD, combine: Combine = "sum") -> tuple[list[ParameterShard], ParameterClient]:
    """Shards that hold the table and the dense tensors above, and a client of them."""
    placement = Placement(shards, {name: value.size for name, value in DENSE.items()})
    made = [ParameterShard(i, placement, Combination(combine, rule)) for i in range(shards)]
    for i, shard in enumerate(made):
        shard.start(TABLE[placement.rows_of(i, len(TABLE))], {name: DENSE[name] for name in placement.dense_of(i)})
    return made, ParameterClient(DirectLink(made), placement, 4)


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_pulled_rows_are_those_asked_for_in_that_order(shards: int) -> None:
    """Law: however many shards there are, row r comes back as row r, in the order asked, and dense tensors by name."""
    _, client = started(shards)
    rows = np.array([7, 0, 10, 3])
    np.testing.assert_array_equal(client.pull_rows(rows).values, TABLE[rows])
    pulled = client.pull_dense().values
    assert pulled.keys() == DENSE.keys()
    for name, value in DENSE.items():
        np.testing.assert_array_equal(pulled[name], value)


@pytest.mark.parametrize("shards", [1, 3])
def test_staged_changes_count_once_committed_and_not_before(shards: int) -> None:
    """Law: what is staged changes nothing; its commit moves touched rows by lr times their change, no other."""
    made, client = started(shards)
    rows, moved = np.array([1, 5, 6]), normal(4, 3, 4)
    client.stage("a", rows, moved, {"weight": normal(5, 3, 2)})
    np.testing.assert_array_equal(client.pull_rows(np.arange(11)).values, TABLE)
    for shard in made:
        shard.commit(["a"])
    expected = TABLE.astype(np.float64)
    expected[rows] += 0.5 * moved
    np.testing.assert_allclose(client.pull_rows(np.arange(11)).values, expected, rtol=1e-6)
    untouched = np.setdiff1d(np.arange(11), rows)
    np.testing.assert_array_equal(client.pull_rows(untouched).values, TABLE[untouched])
    np.testing.assert_allclose(client.pull_dense().values["weight"], DENSE["weight"] + 0.5 * normal(5, 3, 2), rtol=1e-6)
    np.testing.assert_array_equal(client.pull_dense().values["bias"], DENSE["bias"])
    with pytest.raises(KeyError):
        made[0].commit(["a"])


@pytest.mark.parametrize(("combine", "share"), [("sum", 1.0), ("mean", 0.5)])
def test_workers_committed_together_are_one_outer_step(combine: Combine, share: float) -> None:
    """Law: changes add up, or a row moves by the mean of those workers that touched it; either is one outer step."""
    made, client = started(2, combine=combine)
    first, second = normal(6, 2, 4), normal(7, 2, 4)
    client.stage("a", np.array([2, 4]), first, {"bias": normal(8, 3)})
    client.stage("b", np.array([4, 9]), second, {"bias": normal(9, 3)})
    assert [shard.commit(["a", "b"]) for shard in made] == [1, 1]
    expected = TABLE.astype(np.float64)
    expected[2] += 0.5 * first[0]
    expected[9] += 0.5 * second[1]
    expected[4] += 0.5 * share * (first[1].astype(np.float64) + second[0])
    np.testing.assert_allclose(client.pull_rows(np.arange(11)).values, expected, rtol=1e-5)
    moved = 0.5 * share * (normal(8, 3).astype(np.float64) + normal(9, 3))
    np.testing.assert_allclose(client.pull_dense().values["bias"], DENSE["bias"] + moved, rtol=1e-5)


def test_outer_adam_is_lazy_for_rows() -> None:
    """Law: Adam on a shard moves touched rows as Adam in float64 does, and leaves alone those that a round missed."""
    made, client = started(2, Rule("adam", 0.1))
    row, mean, square = TABLE[4].astype(np.float64), np.zeros(4), np.zeros(4)
    for step, touched in enumerate(([4, 5], [4], [4, 5]), start=1):
        moved = normal(step, len(touched), 4)
        client.stage("t", np.array(touched), moved, {})
        for shard in made:
            shard.commit(["t"])
        gradient = -moved[0].astype(np.float64)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        row -= 0.1 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        if step == 1:
            other = client.pull_rows(np.array([5])).values
        if step == 2:
            np.testing.assert_array_equal(client.pull_rows(np.array([5])).values, other)
    np.testing.assert_allclose(client.pull_rows(np.array([4])).values[0], row, rtol=1e-4)


def test_restored_shard_goes_on_as_the_saved_one() -> None:
    """Law: a shard brought back takes the next commit as the one that was saved would; staged work is gone."""
    made, client = started(1, Rule("adam", 0.1))
    client.stage("a", np.array([1, 2]), normal(1, 2, 4), {})
    made[0].commit(["a"])
    kept = {name: value.clone() for name, value in made[0].tensors().items()}
    client.stage("half", np.array([3]), normal(2, 1, 4), {})
    again, other = started(1, Rule("adam", 0.1))
    again[0].load(kept)
    for shard, own in ((made[0], client), (again[0], other)):
        own.stage("b", np.array([2, 3]), normal(3, 2, 4), {"bias": normal(4, 3)})
        shard.commit(["b"])
    assert all(torch.equal(value, made[0].tensors()[name]) for name, value in again[0].tensors().items())
    with pytest.raises(KeyError):
        again[0].commit(["half"])


def test_version_tells_how_many_commits_a_value_contains() -> None:
    """Law: a pulled value says how many commits it contains, the oldest of the shards that answered."""
    made, client = started(2)
    assert client.pull_dense().version == 0
    client.stage("a", np.array([1]), normal(1, 1, 4), {})
    made[1].commit(["a"])
    assert client.pull_rows(np.array([1, 3])).version == 1
    assert client.pull_rows(np.array([0, 1])).version == 0
