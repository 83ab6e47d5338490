"""Long work cut into steps: whoever shares a processor or the interpreter with it may let others run in between."""

from collections.abc import Callable

Pause = Callable[[], None]
"""Called between two steps; returns when the next may begin."""


def no_pause() -> None:
    """Go on at once."""
