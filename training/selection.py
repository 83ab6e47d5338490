"""Which candidate serves the natural domains: backbone, single adapters, average or fusion (methods.md 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from network.fusion import Mode
from training.artifacts_of import Choice
from training.config import Select

_RIVALS: Mapping[Mode, tuple[Choice, ...]] = {
    "attention": ("backbone", "single", "avg", "attention"),
    "avg": ("backbone", "single", "avg"),
    "add": ("backbone", "single", "add"),
    "single": ("backbone", "single"),
}


@dataclass(frozen=True)
class Selection:
    """What was chosen, and from what.

    Args:
        chosen: how every natural domain is served.
        candidates: pooled validation AUC of each candidate; None where it is not defined.
    """

    chosen: Choice
    candidates: Mapping[Choice, float | None]


def choose(mode: Mode, select: Select, aucs: Mapping[Choice, float | None]) -> Selection:
    """Choose the candidate with the best pooled validation AUC; of equal ones the simpler.

    Args:
        mode: what the configuration asks for.
        select: `last_epoch` takes the mode as it is.
        aucs: pooled validation AUC of every candidate.
    """
    candidates = {name: aucs[name] for name in _RIVALS[mode]}
    if select == "last_epoch":
        return Selection(mode, candidates)
    chosen: Choice = "backbone"
    best = candidates["backbone"]
    for name, auc in candidates.items():
        if auc is not None and (best is None or auc > best):
            chosen, best = name, auc
    return Selection(chosen, candidates)
