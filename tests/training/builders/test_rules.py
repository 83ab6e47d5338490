"""Laws of the rules that all benchmark sets share, held to the same rules written one user at a time."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.builders.slow_rules import expected_negatives, slow_domain
from training.builders.draws import numbers, starts, words_of
from training.builders.rules import Positives, build_domain, ratios, sample_negatives

Clicks = list[tuple[Any, Any]]


def as_positives(clicks: Clicks, domain: str = "theme-1") -> Positives:
    return Positives(domain, pl.Series([user for user, _ in clicks]), pl.Series([item for _, item in clicks]))


def world(seed: int, users: int, items: int, clicks: int) -> Clicks:
    """Clicks of which few users make most, on items of which few get most."""
    draw = np.random.default_rng(seed)
    user = np.minimum(draw.geometric(3 / users, clicks), users)
    item = np.minimum(draw.geometric(3 / items, clicks), items)
    return sorted({(int(u), int(i)) for u, i in zip(user, item, strict=True)})


@pytest.mark.parametrize(
    ("users", "items", "clicks", "ratio"), [(40, 300, 400, 0.23), (30, 12, 150, 0.5), (9, 60, 300, 0.2)]
)
def test_rows_are_those_of_the_slow_rules(users: int, items: int, clicks: int, ratio: float) -> None:
    """Law: row by row what plain loops over users give, where items abound and where they run out."""
    shown = world(1, users, items, clicks)
    assert build_domain(as_positives(shown), ratio, 7).rows() == slow_domain("theme-1", shown, ratio, 7)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["u1", "u2", "ü3", "u10"]), st.sampled_from("abcdefgh")), min_size=1, max_size=40
    ),
    st.sampled_from([0.2, 0.33, 0.47, 0.5]),
    st.integers(0, 3),
)
def test_small_domains_follow_the_slow_rules(clicks: Clicks, ratio: float, seed: int) -> None:
    """Law: so do string ids, repeated pairs, one item, one user, and users who have every item."""
    rows = build_domain(as_positives(clicks), ratio, seed)
    assert rows.rows() == slow_domain("theme-1", clicks, ratio, seed)


def test_negatives_are_as_many_as_the_ratio_says_and_none_is_a_positive() -> None:
    """Law: floor(positives / ratio) for each user, fewer only where items run out; all different, none clicked."""
    clicks = world(2, 60, 40, 500)
    rows = build_domain(as_positives(clicks), 0.23, 0)
    negatives = rows.filter(pl.col("label") == 0)
    pairs = set(negatives.select("user_id", "item_id").iter_rows())
    assert len(pairs) == len(negatives)
    assert not pairs & set(clicks)
    assert {item for _, item in pairs} <= {item for _, item in clicks}
    counted = Counter(negatives["user_id"].to_list())
    assert counted == Counter({user: count for user, count in expected_negatives(clicks, 0.23) if count})
    assert set(rows.filter(pl.col("label") == 1).select("user_id", "item_id").iter_rows()) == set(clicks)


def test_a_domain_is_split_60_20_20_for_both_labels() -> None:
    """Law: validation and test get a fifth of the positives and of the negatives, rounded down; train the rest."""
    rows = build_domain(as_positives(world(3, 50, 200, 700)), 0.4, 0)
    for label in (0, 1):
        parts = Counter(rows.filter(pl.col("label") == label)["split"].to_list())
        fifth = parts.total() // 5
        assert parts == {"train": parts.total() - 2 * fifth, "validation": fifth, "test": fifth}


def test_a_user_draws_alike_whoever_else_is_there() -> None:
    """Law: with the items given, a user's negatives depend on seed, domain and user; not on order or other users."""
    pool, ratio = 50, 0.3
    draw = np.random.default_rng(4)
    items = {user: draw.choice(pool, size=3, replace=False) for user in range(20)}

    def of_each(users: list[int], seed: int = 0, domain: str = "d") -> dict[int, set[int]]:
        user, item = np.repeat(np.arange(len(users)), 3), np.concatenate([items[user] for user in users])
        pairs = sample_negatives(user, item, pool, ratio, starts(seed, "negatives", domain, words_of(users)))
        drawn: dict[int, set[int]] = defaultdict(set)
        for pair in pairs:
            drawn[users[pair // pool]].add(int(pair % pool))
        return drawn

    together, few = of_each(list(range(20))), of_each([13, 4, 8])
    assert all(few[user] == together[user] for user in (13, 4, 8))
    assert of_each(list(range(20)), seed=1) != together
    assert of_each(list(range(20)), domain="e") != together


def test_the_order_of_the_positives_does_not_matter() -> None:
    """Law: the same clicks in another order give the same rows."""
    clicks = world(5, 30, 30, 200)
    shuffled = [clicks[n] for n in np.random.default_rng(0).permutation(len(clicks))]
    assert build_domain(as_positives(shuffled), 0.3, 0).equals(build_domain(as_positives(clicks), 0.3, 0))


@pytest.mark.parametrize("positives", [3, 40])  # a few of 100 items are tried for, most of them are ranked
def test_negatives_are_drawn_evenly(positives: int) -> None:
    """Law: over many users every free item is as likely as any other (chi-square of 99 degrees below its 1e-6 tail)."""
    users, pool = 4000, 101
    user = np.repeat(np.arange(users), positives)
    item = np.tile(np.arange(positives) * 0 + 100, users)  # all on one item, so that the others are alike
    pairs = sample_negatives(user, item, pool, 0.5, starts(0, "negatives", "d", words_of(range(users))))
    counts = np.bincount(pairs % pool, minlength=pool)
    assert counts[100] == 0
    expected = counts.sum() / 100
    chi_square = ((counts[:100] - expected) ** 2).sum() / expected
    assert chi_square < 180
    assert len(pairs) == users * 2 * positives


def test_random_words_are_those_of_splitmix64() -> None:
    """Law: the first outputs of SplitMix64 from state 1234567, as its reference implementation prints them."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    found = numbers(np.full(5, 1234567, np.uint64), np.arange(5))
    assert found.tolist() == known


def test_ratios_are_the_released_ones() -> None:
    """Law: two decimals in [0.2, 0.5]; a longer set begins with the ratios of a shorter one."""
    assert ratios(6) == [0.22, 0.23, 0.32, 0.23, 0.47, 0.21]
    assert ratios(30)[:10] == ratios(10)
    assert all(0.2 <= ratio <= 0.5 and round(ratio, 2) == ratio for ratio in ratios(355))
