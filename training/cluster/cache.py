"""A worker's embedding caches of one round: as pulled (static), and as trained since (dynamic)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.int64]


class EmbeddingCache:
    """Static and dynamic copies of the rows that a round has touched.

    On the first touch of a row the latest value goes into both. Training changes the dynamic copy alone. At the end of
    the round dynamic - static is pushed for the touched rows, and both are cleared. Source: MAMDR IV-E, methods.md 3.

    Args:
        ids: (m,) int64, the rows of the whole table that may be touched, ascending.
        padding: places that padding points at; without a value they are zeros, for they are multiplied by zero.
        dynamic: (m, E) float32, the small table that training changes in place.
    """

    def __init__(self, ids: Rows, padding: Rows, dynamic: Tensor) -> None:
        self._ids = ids
        self._padding = torch.from_numpy(padding)
        self._dynamic = dynamic
        self._static = torch.zeros_like(dynamic)
        self._present = np.zeros(len(ids), np.bool_)
        self.clear()

    def absent(self, places: Rows) -> Rows:
        """Return which of these places (n,) no touch of this round has filled."""
        return places[~self._present[places]]

    def fill(self, places: Rows, values: NDArray[np.float32]) -> None:
        """Take the latest values (n, E) of places (n,) that were absent."""
        pulled = torch.tensor(values)
        at = torch.from_numpy(places)
        with torch.no_grad():
            self._static[at] = pulled
            self._dynamic[at] = pulled
        self._present[places] = True

    def ids(self, places: Rows) -> Rows:
        """Return the rows of the whole table at these places."""
        return self._ids[places]

    def changes(self) -> tuple[Rows, NDArray[np.float32]]:
        """Return the touched rows of the whole table (u,), ascending, and dynamic - static of each (u, E)."""
        places = np.flatnonzero(self._present)
        at = torch.from_numpy(places)
        moved: NDArray[np.float32] = (self._dynamic.detach()[at] - self._static[at]).numpy()
        return self._ids[places], moved

    def clear(self) -> None:
        """Forget every value: the next round pulls anew. The stale ones become NaN, so that a use of one shows."""
        with torch.no_grad():
            self._dynamic.fill_(float("nan"))
            self._dynamic[self._padding] = 0.0
        self._present[:] = False


class PulledRows:
    """The static cache alone, for phases that read shared rows and change none of them.

    Args:
        pull: gives the latest values (n, E) of rows (n,) of the whole table.
        width: E.
    """

    def __init__(self, pull: Callable[[Rows], NDArray[np.float32]], width: int) -> None:
        self._pull = pull
        self._ids = np.empty(0, np.int64)
        self._values = np.empty((0, width), np.float32)

    def values(self, rows: Rows) -> NDArray[np.float32]:
        """Return the values (n, E) of distinct rows (n,), ascending; those touched for the first time are pulled."""
        new = np.setdiff1d(rows, self._ids, assume_unique=True)
        if len(new):
            ids = np.concatenate([self._ids, new])
            values = np.concatenate([self._values, self._pull(new)])
            order = np.argsort(ids)
            self._ids, self._values = ids[order], values[order]
        found: NDArray[np.float32] = self._values[np.searchsorted(self._ids, rows)]
        return found
