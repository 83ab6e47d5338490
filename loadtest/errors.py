"""What keeps a load test from running."""

from __future__ import annotations


class LoadTestError(Exception):
    """The test cannot run as asked; the message says what to change."""
