"""What is found of a trained newcomer: its calibration, its verdict, and how far it moved from what was live."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store.manifest import Calibration
from training.dataset import Split
from training.judged import Judged, NaturalRows, calibrate, gate
from training.metrics import Floats, auc, probabilities
from training.newcomer.config import NewcomerConfig
from training.newcomer.live import Live, on_the_line
from training.newcomer.trainer import TrainedNewcomer


def judge_newcomer(
    trained: TrainedNewcomer, split: Split, config: NewcomerConfig, live: Live | None, backbone: Calibration
) -> Judged:
    """Calibrate on the `stop` half, judge on the `gate` half against what is served if nothing is published.

    Args:
        trained: the network.
        split: which rows are which half.
        config: of calibration and gate.
        live: the adapter that is live; None: it is judged against the backbone, which training then started from.
        backbone: its calibration.
    """
    stop, held = (_natural(trained, part) for part in (split.stop, split.gate))
    shift = config.calibration.shift
    if trained.line is None:
        calibrations = calibrate(stop, {"single": trained.logits(split.stop)}, config.calibration)
    else:  # a line on the line that it was trained under: where none is fitted, that one stays
        under = on_the_line(trained.line, trained.logits(split.stop), shift)
        calibrations = calibrate(stop, {"single": under}, config.calibration)
        calibrations["single"] = {
            name: replace(
                found,
                slope=found.slope * trained.line.slope,
                intercept=found.slope * (trained.line.intercept - shift) + found.intercept,
            )
            for name, found in calibrations["single"].items()
        }
    own = tuple(calibrations["single"].values())

    def rival(part: NDArray[np.int64]) -> Floats:
        return on_the_line(backbone, trained.start_logits(part), shift) if live is None else live.logits(part, shift)

    lines = tuple(calibrate(stop, {"backbone": rival(split.stop)}, config.calibration)["backbone"].values())
    verdicts = gate(held, trained.logits(split.gate), rival(split.gate), own, config.gate, lines)
    return Judged(calibrations, verdicts, config.gate)


def figures_of(trained: TrainedNewcomer, split: Split, live: Live | None) -> dict[str, dict[str, Any]]:
    """AUC of backbone, start and trained network on the rows that were not trained on, before any calibration.

    Returns:
        Part (`stop`, `gate`, `test`; none without rows) to {rows, positives, auc_backbone, auc_start, auc}, and
        `auc_live` where an adapter is live; an AUC of one label is None.
    """
    parts = {"stop": split.stop, "gate": split.gate, "test": split.test}
    return {name: _figures(trained, positions, live) for name, positions in parts.items() if len(positions)}


def drift_of(trained: TrainedNewcomer, split: Split, judged: Judged, begun: Live | None) -> dict[str, Any] | None:
    """How far served probabilities of the validation rows, or of all where there are none, moved from the live ones.

    Returns:
        {from, rows, mean, largest}; None where training did not go on from a live adapter.
    """
    if begun is None:
        return None
    positions = np.sort(np.concatenate([split.stop, split.gate]))
    if not len(positions):
        positions = split.train
    line = next(iter(judged.calibrations["single"].values())).served()
    now = probabilities(line["slope"] * trained.logits(positions) + line["intercept"])
    moved = np.abs(now - probabilities(begun.logits(positions)))
    return {
        "from": begun.adapter.revision,
        "rows": len(moved),
        "mean": float(moved.mean()),
        "largest": float(moved.max()),
    }


def _natural(trained: TrainedNewcomer, positions: NDArray[np.int64]) -> NaturalRows:
    rows = trained.network.rows
    return NaturalRows(rows.label.numpy()[positions], np.zeros(len(positions), np.int64), rows.divisions[0].domains)


def _figures(trained: TrainedNewcomer, positions: NDArray[np.int64], live: Live | None) -> dict[str, Any]:
    label = trained.network.rows.label.numpy()[positions]
    served = {} if live is None else {"auc_live": auc(label, live.raw[positions])}
    return {
        **served,
        "rows": len(label),
        "positives": int(label.sum()),
        "auc_backbone": auc(label, trained.backbone_logits(positions)),
        "auc_start": auc(label, trained.start_logits(positions)),
        "auc": auc(label, trained.logits(positions)),
    }
