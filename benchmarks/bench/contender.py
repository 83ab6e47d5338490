"""Who is compared: each scores all requests of a world from encoded rows, the embedding lookup included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.floating[Any]]
Score = Callable[[], Logits]
Form = Literal["multi", "single", "plain"]


class PeerAbsent(RuntimeError):
    """A peer, or a form of it, cannot run on this machine; says why."""


@dataclass(frozen=True)
class Contender:
    """One way to score a world.

    Args:
        name: as it is printed.
        score: gives the logits (n,) of all requests.
        form: whose logits these are; None for one that computes less than anyone of ours.
    """

    name: str
    score: Score
    form: Form | None
