"""Whether bytes are those that were written, told at the speed of memory.

CRC-32 and sha256 of all bytes take longer than anything else that a load of packed memory does. So the 8-byte words of
each piece are summed in lanes, and the sums of all pieces are digested: a word that changed is always found, and so is
a page that came to stand elsewhere, since a row of lanes does not divide pages, and a piece is shorter than the way
after which pages fall into the same lanes again. Against damage, not against who may write.
"""

from __future__ import annotations

import numpy as np

from adapters_store.canonical import digest

_LANES = 509  # a prime: pages of 512 words meet the same lanes after 509 of them, which are 2 MB
_ROWS = 256  # of a piece, which is 1 MB
_WORD_BYTES = 8


def checksum(content: bytes | memoryview) -> str:
    """Of some bytes; hex."""
    words = np.frombuffer(content, np.uint64, len(content) // _WORD_BYTES)
    rows = len(words) // _LANES
    lanes = words[: rows * _LANES].reshape(rows, _LANES)
    sums = [np.add.reduce(lanes[first : first + _ROWS], axis=0).tobytes() for first in range(0, rows, _ROWS)]
    return digest(b"".join(sums) + bytes(content[rows * _LANES * _WORD_BYTES :]))
