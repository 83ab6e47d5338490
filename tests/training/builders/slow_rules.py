"""The rules of the benchmark sets once more, one user and one item at a time, in plain Python integers."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

MASK = (1 << 64) - 1
Row = tuple[object, object, str, int, str]  # user, item, domain, label, part


def word(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def mixed(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def stream(seed: int, purpose: str, domain: str, user: object) -> int:
    name = json.dumps([seed, purpose, domain], separators=(",", ":")).encode()
    return mixed(word(str(user).encode()) ^ word(name))


def output(state: int, number: int) -> int:
    return mixed((state + (number + 1) * 0x9E3779B97F4A7C15) & MASK)


def negatives_of(state: int, positives: int, own: set[int], pool: int, ratio: float) -> list[int]:
    """Positions of one user's negatives in the domain's items."""
    free = [item for item in range(pool) if item not in own]
    wanted = min(math.floor(positives / ratio), len(free))
    if 2 * wanted > len(free):
        return sorted(free, key=lambda item: output(state, item))[:wanted]
    chosen: list[int] = []
    number = 0
    while len(chosen) < wanted:
        item = (output(state, number) >> 32) * pool >> 32
        if item not in own and item not in chosen:
            chosen.append(item)
        number += 1
    return chosen


def slow_domain(domain: str, clicks: Sequence[tuple[object, object]], ratio: float, seed: int) -> list[Row]:
    """All rows of one domain, sorted by user and item."""
    items = sorted({item for _, item in clicks})  # type: ignore[type-var]
    place = {item: position for position, item in enumerate(items)}
    by_user: dict[object, list[int]] = defaultdict(list)
    for user, item in clicks:
        by_user[user].append(place[item])
    rows: list[tuple[object, int, int]] = []
    for user, own in by_user.items():
        rows += [(user, item, 1) for item in own]
        state = stream(seed, "negatives", domain, user)
        rows += [(user, item, 0) for item in negatives_of(state, len(own), set(own), len(items), ratio)]
    rows.sort(key=lambda row: (row[0], row[1]))
    parts = ["train"] * len(rows)
    for label in (0, 1):
        own_rows = [n for n, row in enumerate(rows) if row[2] == label]
        own_rows.sort(key=lambda n: output(stream(seed, "split", domain, rows[n][0]), rows[n][1]))
        fifth = len(own_rows) // 5
        for n in own_rows[:fifth]:
            parts[n] = "validation"
        for n in own_rows[fifth : 2 * fifth]:
            parts[n] = "test"
    return [(user, items[item], domain, label, part) for (user, item, label), part in zip(rows, parts, strict=True)]


def expected_negatives(clicks: Sequence[tuple[object, object]], ratio: float) -> Iterator[tuple[object, int]]:
    """How many negatives each user gets."""
    pool = len({item for _, item in clicks})
    own = Counter(user for user, _ in set(clicks))
    for user, count in Counter(user for user, _ in clicks).items():
        yield user, min(math.floor(count / ratio), pool - own[user])
