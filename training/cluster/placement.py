"""Which shard holds which parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Placement:
    """Rows go round the shards by their number, so that frequent rows, which often stand together, spread; dense
    tensors go to the shard that holds least so far.

    Args:
        shards: how many there are.
        sizes: elements of each dense parameter, by name.
    """

    shards: int
    sizes: Mapping[str, int]

    def shard_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the shard of each row (n,)."""
        return rows % self.shards

    def place_in_shard(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where each row (n,) lies inside its shard."""
        return rows // self.shards

    def rows_of(self, shard: int, total: int) -> NDArray[np.int64]:
        """Return the rows of one shard, in the order in which it keeps them."""
        return np.arange(shard, total, self.shards, dtype=np.int64)

    def dense_of(self, shard: int) -> list[str]:
        """Return the names of the dense parameters of one shard."""
        return [name for name, place in self._dense().items() if place == shard]

    def _dense(self) -> dict[str, int]:
        load = [0] * self.shards
        places: dict[str, int] = {}
        for name in sorted(self.sizes, key=lambda name: (-self.sizes[name], name)):
            places[name] = load.index(min(load))
            load[places[name]] += self.sizes[name]
        return places
