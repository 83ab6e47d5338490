"""What the workers counted, gathered from all of them when one asks: the supervisor's side of `service.together`.

A worker that does not answer counts with what it said last. How long it is waited for the one who asks decides: its
Hurry ends the waiting.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from service.aggregation import exposition, unpacked
from service.channel import Answer, Ask, Counted, FromHub, Hurry, Last, Message, Tell, Told
from service.domain_counts import COLUMNS
from service.totals import Totals


@dataclass(slots=True)
class _Asked:
    """One Ask on its way.

    Args:
        origin: worker that asked.
        number: its own number for it.
        domain: whose counts; None for all metrics.
        left: workers that have yet to tell.
    """

    origin: int
    number: int
    domain: str | None
    left: set[int]


class Gathering:
    """Passes each Ask on as a Tell to all other workers, and answers when the last of them has told or is gone.

    Args:
        send: hands a message to a worker.
        totals: where it is added up.
    """

    def __init__(self, send: Callable[[int, FromHub], None], totals: Totals) -> None:
        self._send = send
        self._totals = totals
        self._alive: dict[int, bool] = {}  # worker -> whether it is; one that ended stays until its successor comes
        self._told_all: set[int] = set()
        self._asked: dict[int, _Asked] = {}
        self._numbers = itertools.count(1)

    def joined(self, worker: int) -> None:
        """A worker counts from now on."""
        self._alive[worker] = True
        self._told_all.discard(worker)

    def gone(self, worker: int) -> None:
        """A worker ended: what it asked is dropped, and nobody waits for it."""
        if worker in self._alive:
            self._alive[worker] = False
            self._totals.ended(worker, told_all=worker in self._told_all)
        for number, asked in list(self._asked.items()):
            if asked.origin == worker:
                del self._asked[number]
            else:
                self._settle(number, worker)

    def received(self, worker: int, message: Message) -> None:
        """A worker said something; what is not about counting is left to others."""
        match message:
            case Counted():
                if all(len(counts) == len(COLUMNS) for counts in message.domains.values()):  # else of another build
                    self._totals.add(message.domains)
            case Ask():
                self._report(worker, message.report)
                self._spread(worker, message)
            case Told():
                self._report(worker, message.report)
                self._settle(message.number, worker)
            case Last():
                self._report(worker, message.report)
                self._told_all.add(worker)
            case Hurry():
                for number, asked in list(self._asked.items()):
                    if (asked.origin, asked.number) == (worker, message.number):
                        self._answer(number)
            case _:
                pass

    def _spread(self, worker: int, ask: Ask) -> None:
        number = next(self._numbers)
        others = {other for other, alive in self._alive.items() if alive and other != worker}
        self._asked[number] = _Asked(worker, ask.number, ask.domain, others)
        for other in sorted(others):
            self._send(other, Tell(number, ask.domain is None))
        if not others:
            self._answer(number)

    def _settle(self, number: int, worker: int) -> None:
        asked = self._asked.get(number)
        if asked is not None:
            asked.left.discard(worker)
            if not asked.left:
                self._answer(number)

    def _answer(self, number: int) -> None:
        asked = self._asked.pop(number)
        up = {worker: alive and worker not in asked.left for worker, alive in sorted(self._alive.items())}
        if asked.domain is None:
            content = zlib.compress(exposition(self._totals.families(up)), 1)
        else:
            content = msgspec.json.encode(self._totals.stats(asked.domain, all_answered=not asked.left))
        self._send(asked.origin, Answer(asked.number, content))

    def _report(self, worker: int, report: bytes) -> None:
        if report and self._alive.get(worker):
            with suppress(ValueError):  # of another build, started since: it counts with what it said last
                self._totals.report(worker, unpacked(report))
