"""Progress bars of the commands that work on many artifacts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def progress_bar(console: Console) -> Progress:
    """A bar that counts, for one task or several."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


@contextmanager
def steps(console: Console, shown: bool = True) -> Iterator[Callable[[str, int, int], None]]:
    """Show the progress of work that names its steps, one bar for each name.

    Args:
        console: where.
        shown: False shows nothing, for output that programs read.

    Yields:
        Told the name of a step, how much of it is done, and of how much.
    """
    bars = progress_bar(console)
    tasks = {}

    def told(name: str, done: int, of: int) -> None:
        if name not in tasks:
            tasks[name] = bars.add_task(name, total=of)
        bars.update(tasks[name], completed=done, total=of)

    if not shown:
        yield lambda name, done, of: None
        return
    with bars:
        yield told
