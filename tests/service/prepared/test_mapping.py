"""Laws of mappings: bounded, counted as long as something uses them, and no error where there is no file."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from service.prepared.mapping import Mappings, read_aligned


def test_a_mapping_counts_until_the_last_array_of_it_is_gone(tmp_path: Path) -> None:
    """Law: the bound is over what is in use, not over what was ever opened."""
    mappings = Mappings(1)
    (tmp_path / "blob").write_bytes(bytes(64))
    array = np.frombuffer(mappings.open(tmp_path / "blob") or b"", np.float32)[4:]
    assert (len(mappings), mappings.has_room) == (1, False)
    assert array.sum() == 0
    del array
    gc.collect()
    assert (len(mappings), mappings.has_room) == (0, True)


def test_what_cannot_be_mapped_is_none(tmp_path: Path) -> None:
    """Law: a file that is gone or empty is no error: it is read in another way, or prepared afresh."""
    (tmp_path / "empty").write_bytes(b"")
    assert Mappings(1).open(tmp_path / "empty") is None
    assert Mappings(1).open(tmp_path / "gone") is None


def test_what_is_read_instead_is_aligned_as_a_mapping_is(tmp_path: Path) -> None:
    """Law: the same bytes, read-only, from a cache line on; a file that is gone is an OSError."""
    for size in (0, 1, 64, 100_001):
        content = bytes(range(256)) * (size // 256) + bytes(size % 256)
        (tmp_path / "blob").write_bytes(content)
        found = read_aligned(tmp_path / "blob")
        assert (found.tobytes(), found.readonly) == (content, True)
        assert size == 0 or np.frombuffer(found, np.uint8).ctypes.data % 64 == 0
    with pytest.raises(FileNotFoundError):
        read_aligned(tmp_path / "gone")


def test_by_default_most_descriptors_are_left_to_requests() -> None:
    """Law: there is room, and it is bounded."""
    assert Mappings().has_room
