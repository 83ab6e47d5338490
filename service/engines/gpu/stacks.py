"""Where the whole networks of single domains lie on the device: behind the backbone's own, entry by entry.

Each layer's weights are one stack whose entry 0 is the backbone's. So kernels find the weights of any slot by one
number in the pool's table, and a slot of an adapter that changes no weight has number 0.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.engines.gpu.libraries import Tensor, Torch
from service.engines.gpu.pool import Writing

BACKBONE = 0
"""The entry of the backbone's own weights."""

Floats = NDArray[Any]


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class HeldEntry:
    """An entry, for as long as someone refers to this.

    Args:
        number: of the entry, in every stack.
        nbytes: of its weights.
    """

    number: int
    nbytes: int


class Stacks:
    """Weights of one backbone, and of the networks beside it.

    Args:
        torch: the package.
        device: where they lie.
        layers: the backbone's weights, (d, k) each.
        output: the backbone's, (d,).
        room_bytes: what the networks beside it may take together.
    """

    def __init__(self, torch: Torch, device: Any, layers: Sequence[Floats], output: Floats, room_bytes: int) -> None:
        self._torch, self._device = torch, device
        self._entry_bytes = sum(layer.nbytes for layer in layers) + output.nbytes
        self.entries = 1 + room_bytes // self._entry_bytes
        self.layers = [self._stack(layer) for layer in layers]
        self.output = self._stack(output)
        self._free = list(reversed(range(1, self.entries)))
        self._freed: deque[int] = deque()  # a finalizer may run anywhere, so it takes no lock
        self._lock = threading.Lock()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def take(self, layers: Sequence[Floats], output: Floats) -> HeldEntry | None:
        """Write a network into a free entry.

        Args:
            layers: float32 weights (d, k), inputs that are padding left out.
            output: (d,).

        Returns:
            A hold on it; None where there is no room.

        Raises:
            RuntimeError: a shape is not the backbone's.
        """
        with self._lock:
            while self._freed:
                self._free.append(self._freed.popleft())
            if not self._free:
                return None
            number = self._free[-1]
            with self._writing():
                for stack, own in zip(self.layers, layers, strict=True):
                    stack[number, :, : own.shape[1]] = self._on_device(own)
                self.output[number] = self._on_device(output)
            self._free.pop()
        held = HeldEntry(number, self._entry_bytes)
        weakref.finalize(held, self._freed.append, number).atexit = False
        return held

    @property
    def free(self) -> int:
        """Free entries."""
        with self._lock:
            return len(self._free) + len(self._freed)

    def _writing(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._stream is None else Writing(self._torch, self._stream)

    def _stack(self, own: Floats) -> Tensor:
        stack = self._torch.zeros((self.entries, *own.shape), dtype=self._torch.float32, device=self._device)
        stack[BACKBONE] = self._on_device(own)
        return stack

    def _on_device(self, values: Floats) -> Tensor:
        return self._torch.tensor(np.ascontiguousarray(values, np.float32), device=self._device)
