"""What a learning framework is. The table of all of them is `training.frameworks.table.FRAMEWORKS`."""

from __future__ import annotations

from typing import Protocol

from training.frameworks.state import State


class Framework(Protocol):
    """Learns over domains, by epochs.

    A framework holds no state of its own: everything that it learns is in `State`, so that it can be kept after each
    epoch and brought back. What an epoch draws comes from streams named by its number, the domain and the role.
    """

    def start(self) -> State:
        """Return the state before the first epoch, its optimizers in place."""
        ...

    def epoch(self, state: State, number: int) -> float:
        """Train one epoch, changing the state in place.

        Args:
            state: as the epoch before left it.
            number: of the epoch, from 1.

        Returns:
            Mean training loss over the rows passed.
        """
        ...
