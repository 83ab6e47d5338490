"""How torch computes for as long as a run takes: on how many cores, and without denormal numbers.

Adam's moments of rows that no batch names decay into the denormal range within some thousand steps, where a processor
is slower by an order of magnitude. They are far below what a step could move a weight by, so they are taken as zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_DENORMAL = 1e-40


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use this many cores inside the block, and flush denormal numbers to zero.

    Threads that torch starts inside the block flush, too; those that it has started before stay as they are.
    """
    cores, flushes = torch.get_num_threads(), flushes_denormals()
    use_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(cores)
        torch.set_flush_denormal(flushes)


def use_threads(count: int) -> None:
    """The same for the rest of the process: of a worker that does nothing but train.

    A process's first session of ONNX Runtime takes denormal numbers up again; what trains after it says so again.
    """
    torch.set_num_threads(count)
    torch.set_flush_denormal(True)  # False where the processor cannot: it is slower there, and no less right


def flushes_denormals() -> bool:
    """Whether this thread takes denormal numbers as zero."""
    return float(torch.tensor(_DENORMAL) * 1.0) == 0.0
