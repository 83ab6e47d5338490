"""The rules that all benchmark sets share: from the positives of one domain to its rows.

Source: Luo et al., MAMDR (ICDE 2023), section V-A, and the settings of its released code. For each domain:

1. a ratio of positives to negatives, between 0.2 and 0.5;
2. for each user with n positives floor(n / ratio) negatives, or as many as there are: different items of the domain,
   of which none is among the user's positives there;
3. 60% of the rows to train, 20% to validate, 20% to test, of the positives and of the negatives alike.

departs from the released code: it splits the negatives of each user on their own, so that rounding moves its small
users' rows from train to test; here the whole domain is split, so the shares are 60/20/20 up to one row. The counts
of users, items and rows are the same.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from training.builders.draws import Ints, Words, below, numbers, starts, words_of
from training.prepared import PARTS, SPLIT

RATIOS = (0.2, 0.5)
_RATIO_SEED = 123
_FIFTHS = 5  # of which one validates and one tests


@dataclass(frozen=True)
class Positives:
    """What users clicked or reviewed in one domain.

    Args:
        domain: its id.
        users: raw ids (n,), one a positive.
        items: raw ids (n,).
    """

    domain: str
    users: pl.Series
    items: pl.Series


def ratios(domains: int) -> list[float]:
    """Positives per negative of each domain of a set, in the order in which the set lists them.

    They are part of the benchmark and not of a build: two decimals between 0.2 and 0.5, in the order in which the
    released code draws them with its one seed. So every set begins with the same ratios, and a build's counts do not
    depend on its seed.
    """
    draw = random.Random(_RATIO_SEED)
    return [round(draw.uniform(*RATIOS), 2) for _ in range(domains)]


def build_domain(positives: Positives, ratio: float, seed: int) -> pl.DataFrame:
    """Apply the rules to one domain.

    Args:
        positives: every one becomes a row of label 1, repeated pairs too.
        ratio: positives per negative.
        seed: decides which negatives and which split; the numbers of rows do not depend on it.

    Returns:
        user_id, item_id, domain_id, label (0 or 1), split; sorted by user, then item. It depends on neither the order
        of the positives nor any other domain.
    """
    user_ids, item_ids = positives.users.unique().sort(), positives.items.unique().sort()
    user, item = _codes(positives.users, user_ids), _codes(positives.items, item_ids)
    words, pool = words_of(user_ids), len(item_ids)
    missed = sample_negatives(user, item, pool, ratio, starts(seed, "negatives", positives.domain, words))
    pair = np.concatenate([user * pool + item, missed])
    label = np.repeat(np.array([1, 0], np.int8), [len(user), len(missed)])
    order = np.argsort(pair, kind="stable")
    user, item, label = pair[order] // pool, pair[order] % pool, label[order]
    part = split_parts(label, numbers(starts(seed, "split", positives.domain, words)[user], item))
    return pl.DataFrame(
        {
            "user_id": user_ids.gather(user),
            "item_id": item_ids.gather(item),
            "domain_id": pl.repeat(positives.domain, len(label), dtype=pl.String, eager=True),
            "label": label,
            SPLIT: pl.Series(PARTS).gather(part),
        }
    )


def sample_negatives(user: Ints, item: Ints, pool: int, ratio: float, states: Words) -> Ints:
    """Draw items that the users have no positive of, evenly over the domain's items.

    Args:
        user: user of each positive, 0 to U - 1 (n,).
        item: item of each positive, 0 to pool - 1 (n,).
        pool: how many items the domain has.
        ratio: positives per negative.
        states: where each user's stream starts (U,).

    Returns:
        user * pool + item of each negative, no pair twice, in no particular order.
    """
    own = np.unique(user * pool + item)
    available = pool - np.bincount(own // pool, minlength=len(states))
    wanted = np.minimum(np.floor(np.bincount(user, minlength=len(states)) / ratio).astype(np.int64), available)
    # trying items until enough are new is quick while at least half of what there is remains
    ranked = 2 * wanted > available
    return np.concatenate(
        [
            _ranked(np.flatnonzero(ranked & (wanted > 0)), wanted, own, pool, states),
            _tried(np.flatnonzero(~ranked & (wanted > 0)), wanted, own, pool, states),
        ]
    )


def split_parts(label: NDArray[np.int8], priority: Words) -> Ints:
    """Part of each row, as a position in `PARTS`.

    Args:
        label: (n,).
        priority: the rows of either label with the smallest ones validate, the next ones test (n,).

    Returns:
        0 train, 1 validation, 2 test (n,). Validation and test get a fifth of each label's rows, rounded down.
    """
    part = np.zeros(len(label), np.int64)
    for one in (0, 1):
        rows = np.flatnonzero(label == one)
        rows = rows[np.argsort(priority[rows], kind="stable")]
        fifth = len(rows) // _FIFTHS
        part[rows[:fifth]], part[rows[fifth : 2 * fifth]] = 1, 2
    return part


def _codes(values: pl.Series, ids: pl.Series) -> Ints:
    return ids.search_sorted(values).to_numpy().astype(np.int64)


def _ranked(users: Ints, wanted: Ints, own: Ints, pool: int, states: Words) -> Ints:
    """Give every item of the domain a number; take the smallest ones."""
    user, item = np.repeat(users, pool), np.tile(np.arange(pool), len(users))
    free = ~_contains(own, user * pool + item)
    user, item = user[free], item[free]
    order = np.lexsort((numbers(states[user], item), user))
    user, item = user[order], item[order]
    first = np.searchsorted(user, user)
    chosen = np.arange(len(user)) - first < wanted[user]
    pairs: Ints = user[chosen] * pool + item[chosen]
    return pairs


def _tried(users: Ints, wanted: Ints, own: Ints, pool: int, states: Words) -> Ints:
    """Take the first items of each user's stream that are new, as many as wanted."""
    need, drawn, taken = wanted[users], np.zeros(len(users), np.int64), own
    found: list[Ints] = [np.empty(0, np.int64)]
    while len(users):
        tries = need + need // 4 + 4
        row = np.repeat(np.arange(len(users)), tries)
        begin = np.cumsum(tries) - tries
        counter = drawn[row] + np.arange(len(row)) - begin[row]
        pair = users[row] * pool + below(numbers(states[users[row]], counter), pool)
        fresh = ~_contains(taken, pair) & _first(pair)
        so_far = np.cumsum(fresh)
        before = so_far[begin] - fresh[begin]
        kept = fresh & (so_far - before[row] <= need[row])
        found.append(pair[kept])
        need, drawn = need - np.bincount(row[kept], minlength=len(users)), drawn + tries
        more = need > 0
        users, need, drawn = users[more], need[more], drawn[more]
        taken = np.sort(np.concatenate([taken, pair[kept]]), kind="stable")
        taken = taken[_contains(users, taken // pool)]
    return np.concatenate(found)


def _contains(sorted_values: NDArray[Any], values: NDArray[Any]) -> NDArray[np.bool_]:
    if not len(sorted_values):
        return np.zeros(len(values), bool)
    place = np.minimum(np.searchsorted(sorted_values, values), len(sorted_values) - 1)
    inside: NDArray[np.bool_] = sorted_values[place] == values
    return inside


def _first(values: Ints) -> NDArray[np.bool_]:
    first = np.zeros(len(values), bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first
