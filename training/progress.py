"""What training tells whoever watches: bars with rows a second and time left, and a line for each result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

Advance = Callable[[int], None]


class Meter(Protocol):
    """Where progress goes."""

    def watch(self, name: str, rows: int) -> AbstractContextManager[Advance]:
        """Show one piece of work of this many rows; the function given takes the rows just done."""
        ...

    def say(self, line: str) -> None:
        """Show one line that stays."""
        ...


class SilentMeter:
    """Shows nothing."""

    @contextmanager
    def watch(self, name: str, rows: int) -> Iterator[Advance]:
        """Count nothing."""
        yield lambda done: None

    def say(self, line: str) -> None:
        """Say nothing."""


class RichMeter:
    """Progress bars on a terminal, plain lines in a log.

    Args:
        console: where to write.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def watch(self, name: str, rows: int) -> Iterator[Advance]:
        """Show a bar while the block runs; in a log there is nothing to redraw, and none is shown."""
        if not self._console.is_terminal:
            yield lambda done: None
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            _RowsPerSecond(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(name, total=rows)
            yield lambda done: progress.advance(task, done)

    def say(self, line: str) -> None:
        """Print a line."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class _RowsPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("      rows/s" if speed is None else f"{speed:>9,.0f} rows/s")
