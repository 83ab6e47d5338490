"""What is found of a trained newcomer: its calibration, its verdict, and how far it moved from what was live."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store.artifact import Adapter
from training.dataset import Split
from training.judged import Judged, NaturalRows, calibrate, gate
from training.metrics import Floats, auc, probabilities
from training.newcomer.config import NewcomerConfig
from training.newcomer.trainer import TrainedNewcomer


def judge_newcomer(trained: TrainedNewcomer, split: Split, config: NewcomerConfig, begun: Adapter | None) -> Judged:
    """Calibrate on the `stop` half, judge on the `gate` half against what is served if nothing is published.

    Args:
        trained: the network.
        split: which rows are which half.
        config: of calibration and gate.
        begun: the live adapter that training went on from; None: the backbone serves.
    """
    stop, held = (_natural(trained, part) for part in (split.stop, split.gate))
    calibrations = calibrate(stop, {"single": trained.logits(split.stop)}, config.calibration)
    own = tuple(calibrations["single"].values())
    rival = _by_start(trained, split.gate, begun, shift=math.log(config.calibration.negatives_kept))
    verdicts = gate(held, trained.logits(split.gate), rival, own, config.gate)
    return Judged(calibrations, verdicts, config.gate)


def figures_of(trained: TrainedNewcomer, split: Split) -> dict[str, dict[str, Any]]:
    """AUC of backbone, start and trained network on the rows that were not trained on, before any calibration.

    Returns:
        Part (`stop`, `gate`, `test`; none without rows) to {rows, positives, auc_backbone, auc_start, auc}; an AUC of
        one label is None.
    """
    parts = {"stop": split.stop, "gate": split.gate, "test": split.test}
    return {name: _figures(trained, positions) for name, positions in parts.items() if len(positions)}


def drift_of(trained: TrainedNewcomer, split: Split, judged: Judged, begun: Adapter | None) -> dict[str, Any] | None:
    """How far served probabilities of the validation rows, or of all where there are none, moved from the live ones.

    Returns:
        {from, rows, mean, largest}; None where nothing was live.
    """
    if begun is None:
        return None
    positions = np.sort(np.concatenate([split.stop, split.gate]))
    if not len(positions):
        positions = split.train
    line = next(iter(judged.calibrations["single"].values())).served()
    now = probabilities(line["slope"] * trained.logits(positions) + line["intercept"])
    moved = np.abs(now - probabilities(_by_start(trained, positions, begun)))
    return {"from": begun.revision, "rows": len(moved), "mean": float(moved.mean()), "largest": float(moved.max())}


def _by_start(
    trained: TrainedNewcomer, positions: NDArray[np.int64], begun: Adapter | None, shift: float = 0.0
) -> Floats:
    """Logits (n,) by what serves now: the backbone, or the live adapter under its calibration.

    Args:
        trained: knows the logits before any calibration.
        positions: of the rows.
        begun: the live adapter, if there is one.
        shift: taken off its calibration: the prior's, for rows that lack it.
    """
    raw = trained.start[positions]
    if begun is None:
        return raw
    line = begun.manifest.calibration
    served: Floats = line.slope * raw + (line.intercept - shift)
    return served


def _natural(trained: TrainedNewcomer, positions: NDArray[np.int64]) -> NaturalRows:
    rows = trained.network.rows
    return NaturalRows(rows.label.numpy()[positions], np.zeros(len(positions), np.int64), rows.divisions[0].domains)


def _figures(trained: TrainedNewcomer, positions: NDArray[np.int64]) -> dict[str, Any]:
    label = trained.network.rows.label.numpy()[positions]
    return {
        "rows": len(label),
        "positives": int(label.sum()),
        "auc_backbone": auc(label, trained.backbone_logits(positions)),
        "auc_start": auc(label, trained.start[positions]),
        "auc": auc(label, trained.logits(positions)),
    }
