"""Laws of the checksum: any word that changed and any page that moved is found, whatever the length."""

from __future__ import annotations

import numpy as np
import pytest

from service.prepared.checksum import checksum

PAGE = 4096


@pytest.mark.parametrize("size", [0, 1, 7, 8, 4071, 4072, 4073, 50_003])
def test_equal_bytes_have_one_checksum_and_a_flipped_bit_another(size: int) -> None:
    """Law: bytes and a view of them agree; each single bit counts, in whole lanes and in what is left over."""
    content = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    whole = checksum(content)
    assert checksum(memoryview(content)) == whole
    for place in {0, size // 2, size - 1} if size else set():
        for bit in (1, 128):
            changed = bytearray(content)
            changed[place] ^= bit
            assert checksum(bytes(changed)) != whole


def test_pages_that_moved_are_found() -> None:
    """Law: two pages in each other's place, one that is zero, or one that is another's, are another checksum."""
    pages = np.random.default_rng(1).integers(0, 256, (520, PAGE), np.uint8)
    whole = checksum(pages.tobytes())
    for place, other in ((3, 20), (3, 4), (3, 257), (3, 512), (509, 0)):
        swapped = pages.copy()
        swapped[[place, other]] = pages[[other, place]]
        assert checksum(swapped.tobytes()) != whole
    zero, doubled = pages.copy(), pages.copy()
    zero[7] = 0
    doubled[7] = pages[8]
    assert all(checksum(changed.tobytes()) != whole for changed in (zero, doubled))
