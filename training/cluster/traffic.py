"""What travels between workers and shards, beside what would travel without a cache."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Self

_ID_BYTES = 8


@dataclass
class Traffic:
    """Bytes of parameters, counted where they are asked for; row ids go along and are counted as well.

    `uncached_*` is the same run without a cache: every minibatch pulls the distinct rows that it reads, and pushes
    those that it changes. `uncached_pushed_frozen` is what the minibatches of Domain Regularization would push if they
    also pushed the shared rows, which they read but never change; it is kept apart.
    """

    rows_pulled: int = 0
    rows_pushed: int = 0
    dense_pulled: int = 0
    dense_pushed: int = 0
    uncached_pulled: int = 0
    uncached_pushed: int = 0
    uncached_pushed_frozen: int = 0
    uncached_dense: int = 0
    judged_pulled: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @classmethod
    def of(cls, record: dict[str, int]) -> Self:
        """Take what `record` gave."""
        return cls(**record)

    def record(self) -> dict[str, int]:
        """Return the counts as JSON values."""
        return asdict(self)

    @property
    def saving(self) -> float | None:
        """Times fewer bytes of rows than without a cache, each minibatch pulling and pushing; None if nothing moved."""
        moved = self.rows_pulled + self.rows_pushed
        if moved == 0:
            return None
        return (self.uncached_pulled + self.uncached_pushed + self.uncached_pushed_frozen) / moved

    @property
    def strict_saving(self) -> float | None:
        """The same, where the run without a cache pushes nothing that it does not change."""
        moved = self.rows_pulled + self.rows_pushed
        return None if moved == 0 else (self.uncached_pulled + self.uncached_pushed) / moved


def row_bytes(rows: int, width: int) -> int:
    """Bytes of so many float32 embedding rows of this width, with their ids."""
    return rows * (4 * width + _ID_BYTES)
