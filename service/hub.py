"""Who of the workers has yet to apply what, and what they count together: the supervisor's side of `service.peers` and
`service.together`, without input or output."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from service.channel import Applied, Apply, Forget, FromHub, Join, Joined, Leave, Message
from service.gathering import Gathering
from service.totals import Totals


@dataclass(slots=True)
class _Wait:
    """One Apply on its way.

    Args:
        origin: worker that asked.
        number: its own number for it.
        left: workers that have yet to apply it.
    """

    origin: int
    number: int
    left: set[int] = field(default_factory=set)


class Hub:
    """Passes each worker's Apply to all others that have joined, and tells it when the last of them is done or gone.

    Args:
        send: hands a message to a worker.
        totals: what all workers counted.
    """

    def __init__(self, send: Callable[[int, FromHub], None], totals: Totals) -> None:
        self._send = send
        self._gathering = Gathering(send, totals)
        self._members: set[int] = set()
        self._waits: dict[int, _Wait] = {}
        self._numbers = itertools.count(1)

    def received(self, worker: int, message: Message) -> None:
        """A worker said something; what is not for its peers is left to others."""
        match message:
            case Join():
                self._members.add(worker)
                self._gathering.joined(worker)
                self._send(worker, Joined())
            case Leave():
                self._left(worker)
            case Apply():
                self._spread(worker, message)
            case Applied():
                self._settle(message.number, worker)
            case Forget():
                for number, wait in list(self._waits.items()):
                    if (wait.origin, wait.number) == (worker, message.number):
                        self._drop(number)
            case _:
                self._gathering.received(worker, message)

    def gone(self, worker: int) -> None:
        """A worker ended: nobody waits for it, and what it waited for is dropped; what it counted stays."""
        self._left(worker)
        self._gathering.gone(worker)

    def _left(self, worker: int) -> None:
        self._members.discard(worker)
        for number, wait in list(self._waits.items()):
            if wait.origin == worker:
                self._drop(number)
            else:
                self._settle(number, worker)

    def _spread(self, worker: int, asked: Apply) -> None:
        number = next(self._numbers)
        wait = _Wait(worker, asked.number, self._members - {worker})
        if not wait.left:
            self._send(worker, Applied(asked.number))
            return
        self._waits[number] = wait
        for peer in sorted(wait.left):
            self._send(peer, Apply(number, asked.domain, asked.generation))

    def _settle(self, number: int, worker: int) -> None:
        wait = self._waits.get(number)
        if wait is None:
            return
        wait.left.discard(worker)
        if not wait.left:
            del self._waits[number]
            self._send(wait.origin, Applied(wait.number))

    def _drop(self, number: int) -> None:
        for peer in sorted(self._waits.pop(number).left):
            self._send(peer, Forget(number))
