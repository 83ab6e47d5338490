"""Errors of reporting.

TrainingError
└── SinkError
    ├── SinkMissing   the library of a sink is not installed: what to install
    └── SinkFailed    a sink did not take the run; the run itself is whole
"""

from __future__ import annotations

from training.errors import TrainingError


class SinkError(TrainingError):
    """A run cannot be told to a sink."""


class SinkMissing(SinkError):
    """The library of a sink is not installed."""


class SinkFailed(SinkError):
    """A sink did not take the run; the message says why."""
