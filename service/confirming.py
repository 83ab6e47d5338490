"""Older than what was applied: a backup that was put back, or a copy from the disk cache while the store is away?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from adapters_store.records import Stored

RecordT = TypeVar("RecordT", bound=Stored)


async def confirmed(
    applied: int, read: Callable[[], Awaitable[RecordT]], read_truth: Callable[[], Awaitable[RecordT]]
) -> RecordT:
    """A record; one of a lower generation than the one applied here must be the truth's own word.

    Args:
        applied: generation of the record that was applied here.
        read: reads through the disk cache, which gives its copy while the truth is away.
        read_truth: reads the truth.

    Raises:
        adapters_store.errors.StoreError: it could not be read.
    """
    record = await read()
    return record if record.generation >= applied else await read_truth()
