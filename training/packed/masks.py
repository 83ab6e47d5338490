"""Dropout of many domains at once, each domain's mask drawn from its own stream."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.packed.norm import Dropped

_LEVELS = 2**16


class Masks:
    """Draws for each domain what `network.dropout` draws where that domain is trained alone.

    Args:
        generators: one for each domain.
        widths: d of each hidden layer, bottom to top.
        probability: of dropout, from 0 up to, but not including, 1.
    """

    def __init__(self, generators: Sequence[torch.Generator], widths: Sequence[int], probability: float) -> None:
        self._generators = generators
        self._widths = widths
        self._dropped = round(probability * _LEVELS)

    def draw(self, counts: Sequence[int], dtype: torch.dtype) -> list[Dropped]:
        """Return what each hidden layer drops of one batch of each of the first t domains.

        Args:
            counts: rows of each batch; of rows of filling, up to the largest n, anything may be dropped.
            dtype: of the layers.
        """
        n = max(counts)
        words = [torch.zeros(len(counts), -(-n * d // 4), dtype=torch.int64) for d in self._widths]
        rows = [part.unbind(0) for part in words]
        for place, count in enumerate(counts):
            generator = self._generators[place]
            for row, d in zip(rows, self._widths, strict=True):
                own = row[place] if count == n else row[place][: -(-count * d // 4)]
                own.random_(-(2**63), None, generator=generator)
        return [self._dropped_of(part, n, d, dtype) for part, d in zip(words, self._widths, strict=True)]

    def _dropped_of(self, words: Tensor, n: int, d: int, dtype: torch.dtype) -> Dropped:
        levels = torch.unflatten(words.view(torch.int16)[:, : n * d], 1, (n, d))
        kept = (levels >= self._dropped - _LEVELS // 2).to(dtype)
        return Dropped(kept, _LEVELS / (_LEVELS - self._dropped))
