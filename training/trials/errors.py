"""Errors of trials.

TrainingError
└── TrialsError
    ├── KeptBroken    a kept result that cannot be read, or is of something else
    └── NoComparison  the table has no such method to compare with
"""

from __future__ import annotations

from training.errors import TrainingError


class TrialsError(TrainingError):
    """A table over seeds cannot be made."""


class KeptBroken(TrialsError):
    """A kept result cannot be read; the message names the file."""


class NoComparison(TrialsError):
    """The table has no such method to compare with; the message names those that it has."""
