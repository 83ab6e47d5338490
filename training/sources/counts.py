"""Whether public files are as large as they are known to be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from training.errors import SourceError

ANY_SIZE = "pass --any-size for another set of this form"


def check_counts(path: Path, found: Mapping[str, int], known: Mapping[str, int], remedy: str) -> None:
    """Compare counts by name.

    Args:
        path: file or folder that they are of.
        found: what was counted.
        known: what the public files have; a count that was not found is 0.
        remedy: what to do when they differ.

    Raises:
        SourceError: one differs; it names each, as found and as known.
    """
    odd = [what for what, count in known.items() if found.get(what, 0) != count]
    if odd:
        differences = " and ".join(f"{found.get(what, 0):,} {what} instead of {known[what]:,}" for what in odd)
        raise SourceError(path, None, f"has {differences}", f"{remedy}, or {ANY_SIZE}")
