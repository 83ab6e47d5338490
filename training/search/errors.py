"""Errors of a search.

TrainingError
└── SearchError
    ├── OptunaMissing   the library that draws trials is not installed: what to install
    ├── JournalBroken   the journal of a search cannot be read
    └── NothingJudged   the configuration as given has no validation AUC, so nothing can be compared with it
"""

from __future__ import annotations

from training.errors import TrainingError


class SearchError(TrainingError):
    """A search cannot go on."""


class OptunaMissing(SearchError):
    """The library that draws trials is not installed; the message says what to install."""


class JournalBroken(SearchError):
    """The journal of a search cannot be read; the message names the file."""


class NothingJudged(SearchError):
    """The configuration as given has no validation AUC; the message says why that may be."""
