"""Laws of the synthetic world: reproducible, of every kind of field, and with signal where it was planted."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from training.errors import PreparedError
from training.metrics import auc
from training.prepared import PreparedDataset
from training.sources.synthetic import SyntheticWorld, synthetic

WORLD = SyntheticWorld(seed=3, rows=80_000, users=600, items=200, domains=8, segments=4)


@pytest.fixture(scope="module")
def world() -> PreparedDataset:
    """One world, drawn once."""
    return synthetic(WORLD)


def test_a_world_is_what_its_spec_says(world: PreparedDataset) -> None:
    """The tables pass the checks that a prepared folder must pass, and every kind of field is there."""
    world.check()
    assert {field.kind for field in world.spec.fields} == {"sparse", "multi_hot", "dense"}
    assert {field.of for field in world.spec.fields} == {"user", "item", "context", "domain"}
    assert world.spec.natural.domains == tuple(f"theme-0{number}" for number in range(1, 9))
    assert world.spec.divisions[1].domains == ("segment-a", "segment-b", "segment-c", "segment-d")
    assert 0 < world.items["price"].null_count() < len(world.items)


def test_the_seed_decides_the_world(world: PreparedDataset) -> None:
    """The same seed gives the same rows, another seed others."""
    again = synthetic(WORLD)
    assert again.interactions.equals(world.interactions)
    assert again.users.equals(world.users)
    assert again.items.equals(world.items)
    other = synthetic(SyntheticWorld(seed=4, rows=80_000, users=600, items=200, domains=8))
    assert not other.interactions.equals(world.interactions)


def test_labels_follow_the_true_probabilities(world: PreparedDataset) -> None:
    """In every tenth of the rows by probability, the share of labels 1 is the mean probability, up to chance."""
    probability = world.interactions["probability"].to_numpy()
    label = world.interactions["label"].to_numpy()
    for part in np.array_split(np.argsort(probability), 10):
        expected = probability[part]
        spread = np.sqrt(np.sum(expected * (1 - expected)))
        assert abs(label[part].sum() - expected.sum()) < 4.5 * spread


def test_the_bayes_auc_is_that_of_the_true_probabilities(world: PreparedDataset) -> None:
    """The fact that reports quote is the AUC of the probability column."""
    columns = world.interactions
    found = auc(columns["label"].to_numpy(), columns["probability"].to_numpy())
    assert world.spec.facts["bayes_auc"] == pytest.approx(found)
    assert 0.8 < world.spec.facts["bayes_auc"] < 0.95


def test_some_domains_are_sparse_and_some_ids_cold(world: PreparedDataset) -> None:
    """The last quarter of the domains has a few hundred rows; some users and items have at most three, or none."""
    rows = {domain["domain_id"]: domain["rows"] for domain in world.spec.facts["domains"]}
    assert all(200 < rows[domain] < 1400 for domain in ("theme-07", "theme-08"))
    assert all(rows[f"theme-0{number}"] > 5_000 for number in range(1, 7))
    for key, table in (("user_id", world.users), ("item_id", world.items)):
        shown = world.interactions[key].value_counts()
        few = shown.filter(pl.col("count") <= 3)
        assert len(few) + len(table) - len(shown) >= 0.03 * len(table)


def test_both_divisions_carry_a_signal_of_their_own(world: PreparedDataset) -> None:
    """What users like in one domain says nothing of another domain, in either division: shifts have zero mean."""
    rows = world.interactions.join(world.users, on="user_id").join(world.items, on="item_id", suffix="_of_item")
    logit = np.log(pl.col("probability") / (1 - pl.col("probability")))
    brands = rows.with_columns(logit=logit).group_by("brand").agg(spread=pl.col("logit").mean())["spread"].std()
    for key in ("domain_id", "segment"):
        big = rows.filter(~pl.col("domain_id").is_in(["theme-07", "theme-08"])).with_columns(logit=logit)
        within = big.group_by(key, "brand").agg(spread=pl.col("logit").mean()).group_by(key).agg(pl.col("spread").std())
        assert float(within["spread"].mean()) > 1.15 * float(brands)  # type: ignore[arg-type]


@pytest.mark.parametrize("world", [SyntheticWorld(segments=1), SyntheticWorld(domains=3, rows=20_000, segments=2)])
def test_a_division_of_one_domain_has_no_shift(world: SyntheticWorld) -> None:
    """The smallest divisions still give finite probabilities strictly between 0 and 1."""
    probability = synthetic(world).interactions["probability"]
    assert probability.is_finite().all()
    assert probability.is_between(0, 1, closed="none").all()


@pytest.mark.parametrize("sizes", [{"rows": 5_000}, {"segments": 27}])
def test_a_world_too_small_for_its_domains_is_refused(sizes: dict[str, int]) -> None:
    """The error says how many rows are needed."""
    with pytest.raises(PreparedError, match="need at least"):
        SyntheticWorld(**sizes)
