"""The backbones in memory: the default, and at most one beside it."""

from __future__ import annotations

from collections.abc import Iterator

from service.serving import Serving
from service.slots import Slot


class Backbones:
    """Which backbone scores what. Changed on the event loop only.

    Args:
        default: scores whatever has no adapter.
    """

    def __init__(self, default: Serving) -> None:
        self.default = default
        self.beside: Serving | None = None

    def __iter__(self) -> Iterator[Serving]:
        yield self.default
        if self.beside is not None:
            yield self.beside

    def of(self, slot: Slot | None) -> Serving:
        """The backbone that an adapter is of; without one, the default."""
        return self.default if slot is None else slot.serving

    def resident(self, fingerprint: str) -> Serving | None:
        """The backbone of a fingerprint, if it is in memory; may be called from any thread."""
        for serving in self:
            if serving.fingerprint == fingerprint:
                serving.wanted = True
                return serving
        return None

    def flip(self) -> None:
        """Let the one beside be the default, and the default stand beside.

        Raises:
            ValueError: there is none beside.
        """
        if self.beside is None:
            raise ValueError("no backbone stands beside the default")
        self.default, self.beside = self.beside, self.default
