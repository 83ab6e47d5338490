"""Random streams, each named by what it serves, so that no generator's state ever has to be saved.

A stream depends on its name alone: (seed, stage, division, domain, purpose, epoch). A resumed epoch therefore draws
what the interrupted one drew, and no domain's numbers depend on which others are trained beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from adapters_store.canonical import canonical_json, digest

_SEED_DIGITS = 15
"""Hex digits of the digest that become a seed: 60 bits, which every generator takes."""


@dataclass(frozen=True)
class Stream:
    """A named source of random numbers.

    Args:
        seed: the run's seed.
        name: what the numbers are for, such as ("adapters", "age", "age-25").
    """

    seed: int
    name: tuple[str | int, ...] = ()

    def of(self, *name: str | int) -> Stream:
        """Return the stream of a part of this one."""
        return Stream(self.seed, (*self.name, *name))

    def number(self) -> int:
        """Return this stream's seed; the same on every machine and in every process."""
        return int(digest(canonical_json([self.seed, *self.name]))[:_SEED_DIGITS], 16)

    def generator(self) -> torch.Generator:
        """Return a fresh generator at the start of this stream."""
        return torch.Generator().manual_seed(self.number())

    @contextmanager
    def ambient(self) -> Iterator[None]:
        """Let torch's global generator follow this stream inside the block; it is put back afterwards.

        Dropout and the layers' initial weights take no generator of their own.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.number())
            yield
