"""Laws of mappings: bounded, counted as long as something uses them, and no error where there is no file."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np

from service.prepared.mapping import Mappings


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


def test_by_default_most_descriptors_are_left_to_requests() -> None:
    """Law: there is room, and it is bounded."""
    assert Mappings().has_room
