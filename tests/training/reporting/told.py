"""A finished run as the report and the sinks see it: two domains that learned, one that has no AUC, gate decisions."""

from __future__ import annotations

from typing import Any

from tests.training.scored import scored_rows
from training.evaluation import evaluate
from training.figures import Evaluation


def curve(*aucs: float | None) -> dict[str, Any]:
    """A learning curve from epoch 0 on, of which epoch 1 was kept."""
    history = [
        {"epoch": epoch, "loss": 0.5 - epoch / 100 if epoch else None, "auc": auc, "seconds": 1.0}
        for epoch, auc in enumerate(aucs)
    ]
    return {"epoch": 1, "auc": aucs[1], "history": history}


def verdict(passed: bool, reason: str, rows: int) -> dict[str, Any]:
    """What the gate said of a domain that it did not test."""
    return {
        "passed": passed,
        "reason": reason,
        "rows": rows,
        "positives": 3,
        **dict.fromkeys(("log_loss", "auc", "calibration")),
    }


RECORD: dict[str, Any] = {
    "config": {
        "seed": 3,
        "data": "somewhere/private/planted",
        "pretrain": {"lr": 0.001},
        "backbone": {"tower": [16, 8]},
        "sinks": {"tensorboard": True, "mlflow": None},
    },
    "parameters": {"all": 274_641},
    "pretrain": curve(None, 0.8, 0.79),
    "adapters": {
        "large": {"division": "theme", "rows": 500, **curve(0.7, 0.72, 0.71)},
        "clicks-only": {"division": "theme", "rows": 50, **curve(None, None)},
    },
    "fuse": {"attention": curve(0.8, 0.81)},
    "selection": {"chosen": "attention", "candidates": {"backbone": 0.8, "attention": 0.81}},
    "gate": {
        "rules": {"policy": "withhold", "q": 0.1, "confidence": 0.95, "auc_margin": 0.001, "min_positives": 20}
        | {"domains": 2, "tested": 1},
        "domains": {"large": verdict(True, "LogLoss falls by 0.01", 1500), "small": verdict(False, "3 positives", 9)},
    },
}


def evaluation_of(draws: int = 100) -> Evaluation:
    """Of the scored rows."""
    return evaluate(scored_rows(), draws=draws)


def renamed(evaluation: Evaluation, old: str, new: str) -> Evaluation:
    """The evaluation with another name for one domain."""
    methods = {
        name: method.model_copy(update={"domains": {new if d == old else d: f for d, f in method.domains.items()}})
        for name, method in evaluation.methods.items()
    }
    return evaluation.model_copy(update={"methods": methods, "bayes": None})
