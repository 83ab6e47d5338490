"""What was trained: each (epoch, phase, domain) once, or an error."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.cluster.errors import LedgerError

Entry = tuple[int, str, str]
"""(epoch, phase, domain)."""


@dataclass
class Ledger:
    """The entries that the parameters of a checkpoint contain.

    Args:
        entries: in the order in which they were taken in.
    """

    entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._seen = set(self.entries)

    def add(self, entries: Iterable[Entry]) -> None:
        """Take in what a worker trained.

        Raises:
            LedgerError: one of them is in already; nothing was taken in.
        """
        new = list(entries)
        twice = sorted(self._seen.intersection(new)) or [entry for entry in new if new.count(entry) > 1]
        if twice:
            epoch, phase, domain = twice[0]
            raise LedgerError(f"epoch {epoch}, {phase} of domain {domain} is trained already: it would count twice")
        self.entries += new
        self._seen.update(new)

    def record(self) -> list[list[Any]]:
        """Return the entries as JSON values."""
        return [list(entry) for entry in self.entries]

    @classmethod
    def of(cls, record: Iterable[Iterable[Any]]) -> Ledger:
        """Take what `record` gave."""
        return cls([(int(epoch), str(phase), str(domain)) for epoch, phase, domain in record])


class Log:
    """A file of JSON lines that only grows: what began, what was completed, what was thrown away and is done again.

    Args:
        path: the file.
        say: shows a line to whoever watches.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self._path = path
        self._say = say

    def write(self, event: str, shown: str = "", **facts: Any) -> None:
        """Add a line; `shown` is also said, where it is not empty."""
        line = json.dumps({"event": event, **facts}, separators=(",", ":")) + "\n"
        with self._path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end > 0:
                file.seek(end - 1)
                if file.read(1) != b"\n":  # a kill cut the last line short
                    file.write(b"\n")
            file.write(line.encode())
        if shown:
            self._say(shown)

    def events(self) -> list[dict[str, Any]]:
        """Return every line; a last one that a kill cut short is left out."""
        if not self._path.exists():
            return []
        found: list[dict[str, Any]] = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found
