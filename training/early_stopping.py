"""Early stopping: which epoch was best so far, and when to give up hoping for a better one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class EarlyStopping:
    """Watches a score that should grow.

    Args:
        patience: epochs without a better score before it is exhausted.
        best_epoch: epoch of the best score; 0 is the untrained start, None if nothing has a score yet.
        best_score: that score.
    """

    patience: int
    best_epoch: int | None = None
    best_score: float | None = None

    def observe(self, epoch: int, score: float | None) -> bool:
        """Take an epoch's score and say whether it is the best so far; the earlier of two equal ones stays."""
        if score is None or (self.best_score is not None and score <= self.best_score):
            return False
        self.best_epoch, self.best_score = epoch, score
        return True

    def exhausted(self, epoch: int) -> bool:
        """Whether `patience` epochs have passed since the best one."""
        return epoch - (self.best_epoch or 0) >= self.patience
