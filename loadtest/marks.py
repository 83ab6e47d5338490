"""Tells by the scores themselves which dye scored: all dyes of a domain agree on the logit before calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from loadtest.catalogue import Dye

# dyes lie 0.1 and more apart; a float32 logit near these bounds is good to a thousandth
TOLERANCE = 5e-3
STEEP = 8.0


class Marks:
    """Learns the logits of each fixed request from its first answer, and holds every later one against them.

    Args:
        dyes: domain -> revisions with known calibration.
    """

    def __init__(self, dyes: Mapping[str, Sequence[Dye]]) -> None:
        self._dyes = {(dye.domain, dye.revision): dye for of in dyes.values() for dye in of}
        self._logits: dict[tuple[str, int, str], list[float]] = {}

    def fits(self, domain: str, probe: int, revision: str, scores: Sequence[float], basis: str = "") -> bool:
        """Whether the scores are those of the revision; True where nothing is known that would tell.

        Args:
            domain: a domain with dyes.
            probe: number of the fixed request.
            revision: that the answer names.
            scores: probabilities of all its items.
            basis: what else decides the logits, the backbone and the feature tables; each is learned by itself.
        """
        dye = self._dyes.get((domain, revision))
        if dye is None or not all(0.0 < score < 1.0 for score in scores):
            return True
        logits = [(math.log(p / (1.0 - p)) - dye.intercept) / dye.slope for p in scores]
        learned = self._logits.setdefault((domain, probe, basis), logits)
        return len(learned) == len(logits) and all(
            abs(a - b) <= TOLERANCE for a, b in zip(logits, learned, strict=True) if abs(a) < STEEP and abs(b) < STEEP
        )
