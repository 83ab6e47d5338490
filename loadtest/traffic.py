"""What is asked: domains by Zipf's law, users and items of the catalogue."""

from __future__ import annotations

import itertools
import json
import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.catalogue import Catalogue

LISTS = 256
PROBES = 8


class Zipf:
    """Draws ranks 0..n-1 with probability proportional to (rank + 1) ** -exponent.

    Args:
        count: how many ranks.
        exponent: 0 is uniform; 1 is the classical law.
        rng: draws.
    """

    def __init__(self, count: int, exponent: float, rng: random.Random) -> None:
        self._sums = list(itertools.accumulate((rank + 1) ** -exponent for rank in range(count)))
        self._rng = rng

    def draw(self) -> int:
        """One rank."""
        return bisect_left(self._sums, self._rng.random() * self._sums[-1])


@dataclass(frozen=True, slots=True)
class Question:
    """One scoring request.

    Args:
        domain: asked for.
        items: how many.
        body: JSON as it is sent.
        probe: number of the fixed request that this is, for a domain with dyes; None for a random one.
    """

    domain: str
    items: int
    body: bytes
    probe: int | None = None


class Traffic:
    """Draws scoring requests. Domains with dyes are asked fixed requests only, so that answers can be compared.

    Args:
        catalogue: of the store.
        exponent: of the domains' popularity.
        items: in one request, at most; fewer where the catalogue has fewer.
        rng: draws.
    """

    def __init__(self, catalogue: Catalogue, *, exponent: float, items: int, rng: random.Random) -> None:
        self._rng = rng
        self._domains = catalogue.domains
        self._items = min(items, len(catalogue.items))
        self._popularity = Zipf(len(catalogue.domains), exponent, rng)
        self._users = [json.dumps(user).encode() for user in catalogue.users]
        # drawing a hundred items afresh costs the generator as much as sending them
        self._lists = [self._item_list(catalogue.items) for _ in range(LISTS)]
        self._probes = {domain: [self._random(domain, n) for n in range(PROBES)] for domain in catalogue.dyes}
        self._cold = itertools.cycle(rng.sample(catalogue.cold, len(catalogue.cold)))

    def popular(self) -> Question:
        """A request for a domain drawn by popularity."""
        domain = self._domains[self._popularity.draw()]
        probes = self._probes.get(domain)
        return self._random(domain) if probes is None else self._rng.choice(probes)

    def each(self) -> list[Question]:
        """One request for each popular domain."""
        return [self._random(domain) for domain in self._domains]

    def cold(self) -> Question:
        """A request for the cold domain that was asked for longest ago."""
        return self._random(next(self._cold))

    def _item_list(self, items: Sequence[str]) -> bytes:
        return json.dumps(self._rng.sample(items, self._items)).encode()

    def _random(self, domain: str, probe: int | None = None) -> Question:
        user, items = self._rng.choice(self._users), self._rng.choice(self._lists)
        body = b'{"user_id":%b,"domain_id":%b,"item_ids":%b}' % (user, json.dumps(domain).encode(), items)
        return Question(domain, self._items, body, probe)
