"""A meter that remembers what it was told."""

from __future__ import annotations

from training.progress import SilentMeter


class Listening(SilentMeter):
    """Keeps every line."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        """Remember a line."""
        self.lines.append(line)
