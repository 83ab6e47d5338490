"""Laws of the conflict world: reproducible, its best AUC known, and gradients that disagree by construction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.errors import PreparedError
from training.metrics import auc
from training.prepared import PreparedDataset
from training.sources.conflict import ConflictWorld, conflicting, directions

WORLD = ConflictWorld(seed=3, rows=30_000, users=300, items=100, domains=6)


@pytest.fixture(scope="module")
def world() -> PreparedDataset:
    """One world, drawn once."""
    return conflicting(WORLD)


def columns(world: PreparedDataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label, probability, and domain as its position, of every row."""
    rows = world.interactions
    position = {name: place for place, name in enumerate(world.spec.natural.domains)}
    return (
        rows["label"].to_numpy().astype(float),
        rows["probability"].to_numpy(),
        np.array([position[name] for name in rows["domain_id"]]),
    )


def test_a_world_is_what_its_spec_says(world: PreparedDataset, tmp_path: Path) -> None:
    """Law: the tables pass the checks of a prepared folder, written and read again; the last domains are sparse."""
    world.write(tmp_path / "prepared")
    read = PreparedDataset.load(tmp_path / "prepared")
    assert read.interactions.equals(world.interactions)
    assert read.spec == world.spec
    rows = {fact["domain_id"]: fact["rows"] for fact in world.spec.facts["domains"]}
    assert list(rows) == [f"shelf-0{number}" for number in range(1, 7)]
    assert all(100 < rows[name] < 1_000 for name in ("shelf-06",))
    assert all(rows[f"shelf-0{number}"] > 3_000 for number in range(1, 6))


def test_each_domain_is_split_60_20_20(world: PreparedDataset) -> None:
    """Law: the parts of every domain have their shares of its rows, up to one row."""
    for _, rows in world.interactions.group_by("domain_id"):
        parts = [int((rows["split"] == part).sum()) for part in ("train", "validation", "test")]
        assert sum(parts) == len(rows)
        assert all(abs(part - share * len(rows)) <= 1 for part, share in zip(parts, (0.6, 0.2, 0.2), strict=True))


def test_the_seed_decides_the_world(world: PreparedDataset) -> None:
    """Law: the same seed gives the same rows, another seed others."""
    assert conflicting(WORLD).interactions.equals(world.interactions)
    other = conflicting(ConflictWorld(seed=4, rows=30_000, users=300, items=100, domains=6))
    assert not other.interactions.equals(world.interactions)


@pytest.mark.parametrize(
    "sizes",
    [
        {"directions": 1},
        {"directions": 2},
        {"directions": 8},
        {"domains": 7, "directions": 6},
        {"domains": 2, "directions": 1},
    ],
)
def test_directions_have_unit_length_and_sum_to_zero(sizes: dict[str, int]) -> None:
    """Law: so their mean inner product over pairs is -1 / (domains - 1), for any arrangement."""
    own = directions(ConflictWorld(**sizes))  # type: ignore[arg-type]
    n = len(own)
    np.testing.assert_allclose(np.linalg.norm(own, axis=1), 1.0)
    np.testing.assert_allclose(own.sum(axis=0), 0.0, atol=1e-12)
    inner = own @ own.T
    assert (inner.sum() - np.trace(inner)) / (n * (n - 1)) == pytest.approx(-1 / (n - 1))


def test_labels_follow_the_true_probabilities(world: PreparedDataset) -> None:
    """Law: in every tenth of the rows by probability, the share of labels 1 is the mean probability, up to chance."""
    label, probability, _ = columns(world)
    for part in np.array_split(np.argsort(probability), 10):
        spread = np.sqrt(np.sum(probability[part] * (1 - probability[part])))
        assert abs(label[part].sum() - probability[part].sum()) < 4.5 * spread


def test_the_best_auc_is_that_of_the_true_probabilities(world: PreparedDataset) -> None:
    """Law: the facts are the AUC of the probability column, over all rows and in the mean of the domains."""
    label, probability, domain = columns(world)
    assert world.spec.facts["bayes_auc"] == pytest.approx(auc(label, probability))
    each = [auc(label[domain == k], probability[domain == k]) for k in range(6)]
    assert world.spec.facts["bayes_mean_auc"] == pytest.approx(np.mean([value for value in each if value is not None]))
    assert 0.75 < world.spec.facts["bayes_mean_auc"] < 0.95
    assert world.spec.facts["mean_cosine"] == pytest.approx(-1 / 5)


@pytest.mark.parametrize(("conflict", "agree"), [(0.0, True), (0.6, False), (1.0, False)])
def test_gradients_disagree_where_there_is_conflict(conflict: float, agree: bool) -> None:
    """Law: at what is best for all rows together, domains' gradients over user and item features point apart.

    The features are one column a user and one an item, the model is logistic regression fitted to the pooled
    probabilities; g_i = mean over domain i of (prediction - probability) x.
    """
    world = conflicting(ConflictWorld(seed=1, rows=20_000, users=60, items=30, domains=6, conflict=conflict))
    _, probability, domain = columns(world)
    rows = world.interactions
    x = np.zeros((len(rows), 90 + 6))
    x[np.arange(len(rows)), rows["user_id"].to_numpy() - 1] = 1
    x[np.arange(len(rows)), 60 + rows["item_id"].to_numpy() - 1] = 1
    x[np.arange(len(rows)), 90 + domain] = 1
    weight = np.zeros(96)
    for _ in range(25):  # Newton's steps
        predicted = 1 / (1 + np.exp(-x @ weight))
        curvature = (x * (predicted * (1 - predicted))[:, None]).T @ x + 1e-6 * np.eye(96)
        weight -= np.linalg.solve(curvature, x.T @ (predicted - probability))
    residual = (1 / (1 + np.exp(-x @ weight)) - probability)[:, None] * x[:, :90]
    gradients = np.stack([residual[domain == k].mean(axis=0) for k in range(6)])
    unit = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    cosines = unit @ unit.T
    opposite = [cosines[i].min() for i in range(6)]
    planted = directions(ConflictWorld(seed=1, domains=6))
    if agree:
        assert np.linalg.norm(gradients, axis=1)[:5].max() < 0.02
    else:
        assert max(opposite[:5]) < -0.3
        expected = planted @ planted.T
        pairs = ~np.eye(6, dtype=bool)
        assert np.corrcoef(cosines[pairs], expected[pairs])[0, 1] > 0.8


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"domains": 1}, "contradict each other from 2 on, got 1"),
        ({"conflict": 1.5}, "share from 0 to 1, got 1.5"),
        ({"directions": 3}, "got 3 for 10 domains"),
        ({"directions": 10}, "below that of the domains, got 10 for 10"),
        ({"directions": 1, "domains": 5}, "of an even number of domains"),
        ({"rows": 5_000}, "need at least 25,000 rows, got 5,000"),
        ({"scale": 0.0}, "must be positive"),
        ({"users": 3}, "at least 10 users"),
    ],
)
def test_a_world_that_cannot_be_is_refused(sizes: dict[str, Any], message: str) -> None:
    """Law: the error says what is asked and what was given."""
    with pytest.raises(PreparedError, match=message):
        ConflictWorld(**sizes)
