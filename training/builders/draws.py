"""Random numbers that stand at places instead of being drawn in turn.

The number at a place depends on (seed, purpose, domain, user, counter) alone, so it does not matter in which order,
in how many processes, or beside which other users and domains the places are looked at.

Each user's numbers are the outputs of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014), which can be evaluated at any position at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from adapters_store.canonical import canonical_json

Words = NDArray[np.uint64]
Ints = NDArray[np.int64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_WORD_BYTES = 8


def words_of(ids: Iterable[str | int]) -> Words:
    """A word for each id; an integer's is that of its decimal string."""
    return np.array([_word(str(one).encode()) for one in ids], np.uint64)


def starts(seed: int, purpose: str, domain: str, users: Words) -> Words:
    """Where the stream of each user starts.

    Args:
        seed: of the build.
        purpose: what the numbers decide.
        domain: id of the domain.
        users: words of the users (n,).

    Returns:
        States of n generators (n,).
    """
    return _mixed(users ^ np.uint64(_word(canonical_json([seed, purpose, domain]))))


def numbers(states: Words, counters: Ints) -> Words:
    """The outputs number `counters` (n,) of the generators `states` (n,)."""
    return _mixed(states + (counters.astype(np.uint64) + np.uint64(1)) * _GAMMA)


def below(words: Words, bound: int) -> Ints:
    """Integers from 0 to bound - 1, uniform but for bound / 2**32.

    Args:
        words: random words (n,).
        bound: at most 2**32.
    """
    return (((words >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)


def _word(content: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=_WORD_BYTES).digest(), "little")


def _mixed(z: Words) -> Words:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Words = z ^ (z >> np.uint64(31))
    return mixed
