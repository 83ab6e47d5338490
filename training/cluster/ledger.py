"""What was trained: each (epoch, phase, domain) once, or an error."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.cluster.errors import LedgerError

Entry = tuple[int, str, str]
"""(epoch, phase, domain)."""
Domains = NDArray[np.bool_]


class Ledger:
    """The entries that the parameters of a checkpoint contain.

    An epoch of a phase that has every domain is whole, and only counted: how many epochs of it are whole, from the
    first. Of the few that are open it holds a bit for each domain. So it is no longer after many epochs than after one.

    Args:
        domains: names of all that are trained, in an order that stays.
    """

    def __init__(self, domains: Sequence[str]) -> None:
        self._domains = tuple(domains)
        self._place = {name: place for place, name in enumerate(self._domains)}
        self._whole: dict[str, int] = {}
        self._open: dict[tuple[str, int], Domains] = {}

    @property
    def entries(self) -> list[Entry]:
        """Every entry, by epoch, phase and the order of the domains; as long as all that was trained."""
        whole = [(epoch, phase) for phase, count in self._whole.items() for epoch in range(1, count + 1)]
        found = [(epoch, phase, name) for epoch, phase in whole for name in self._domains]
        for (phase, epoch), marked in self._open.items():
            found += [(epoch, phase, self._domains[place]) for place in np.flatnonzero(marked)]
        return sorted(found, key=lambda entry: (entry[0], entry[1], self._place[entry[2]]))

    def add(self, entries: Iterable[Entry]) -> None:
        """Take in what a worker trained.

        Raises:
            LedgerError: one of them is in already, or of a domain that is not trained; nothing was taken in.
        """
        new: dict[tuple[str, int], Domains] = {}
        for epoch, phase, domain in entries:
            if domain not in self._place:
                raise LedgerError(f"epoch {epoch}, {phase} of domain {domain}: this training has no such domain")
            place, key = self._place[domain], (phase, epoch)
            marked = new.setdefault(key, np.zeros(len(self._domains), np.bool_))
            before = self._open.get(key)
            if epoch <= self._whole.get(phase, 0) or marked[place] or (before is not None and before[place]):
                raise LedgerError(f"epoch {epoch}, {phase} of domain {domain} is trained already: it would count twice")
            marked[place] = True
        for key, marked in new.items():
            before = self._open.get(key)
            self._open[key] = marked if before is None else before | marked
        for phase in {phase for phase, _ in new}:
            self._close(phase)

    def _close(self, phase: str) -> None:
        """Count the next epochs of a phase whose every domain is in, and forget their bits."""
        epoch = self._whole.get(phase, 0) + 1
        while (phase, epoch) in self._open and bool(self._open[phase, epoch].all()):
            del self._open[phase, epoch]
            self._whole[phase] = epoch
            epoch += 1

    def record(self) -> dict[str, Any]:
        """Return it as JSON values: whole epochs by phase, and the open ones' bits, eight domains a byte, in base64."""
        opened = [
            [epoch, phase, base64.b64encode(np.packbits(marked).tobytes()).decode()]
            for (phase, epoch), marked in self._open.items()
        ]
        return {"domains": len(self._domains), "whole": dict(self._whole), "open": opened}

    @classmethod
    def of(cls, record: Mapping[str, Any] | Sequence[Sequence[Any]], domains: Sequence[str]) -> Ledger:
        """Take what `record` gave; or a list of entries, as manifests held them before.

        Args:
            record: of a manifest.
            domains: of the training, in the order in which they were.

        Raises:
            LedgerError: it is of other domains, counts something twice, or cannot be read.
        """
        found = cls(domains)
        try:
            if not isinstance(record, Mapping):
                found.add((int(epoch), str(phase), str(domain)) for epoch, phase, domain in record)
                return found
            if record["domains"] != len(domains):
                raise LedgerError(f"it is of {record['domains']} domains; this training has {len(domains)}")
            found._whole = {str(phase): int(count) for phase, count in record["whole"].items()}
            for epoch, phase, bits in record["open"]:
                found._open[str(phase), int(epoch)] = _marked(bits, len(domains))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LedgerError(f"it cannot be read ({type(error).__name__}: {error})") from None
        return found


def _marked(bits: str, count: int) -> Domains:
    packed = np.frombuffer(base64.b64decode(bits, validate=True), np.uint8)
    if len(packed) != -(-count // 8):
        raise ValueError(f"{len(packed)} bytes of bits for {count} domains")
    return np.unpackbits(packed, count=count).astype(np.bool_)


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

    def events(self) -> Iterator[dict[str, Any]]:
        """Read line after line, for they name domains and are many; one that a kill cut short is left out."""
        if not self._path.exists():
            return
        with self._path.open("rb") as lines:
            for line in lines:
                try:
                    event: dict[str, Any] = json.loads(line)
                except ValueError:
                    continue
                yield event
