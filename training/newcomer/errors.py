"""Errors of adding a domain.

TrainingError
└── NewcomerError
    ├── BadRows      a file of rows that nothing can be learned from: what is wrong, and where
    ├── UnknownIds   rows name users or items that no feature table holds
    ├── DomainTaken  the name belongs to a domain that serves already, or to another division
    ├── NothingLive  the domain serves nothing that training could go on from
    └── NothingToTrain  what is live stays as it is, and no id is to have an overlay
"""

from __future__ import annotations

from training.errors import TrainingError


class NewcomerError(TrainingError):
    """A domain cannot be added."""


class BadRows(NewcomerError):
    """A file of rows cannot be learned from; the message names the column or the row."""


class UnknownIds(NewcomerError):
    """Rows name users or items that no feature table holds."""


class DomainTaken(NewcomerError):
    """The name belongs to a domain that serves already, or to one of another division."""


class NothingLive(NewcomerError):
    """The domain serves nothing that training could go on from."""


class NothingToTrain(NewcomerError):
    """What is live stays as it is, and no id is to have an overlay."""
