"""RUN/report.html and RUN/report.md with their pictures for people, RUN/report.json for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.errors import PredictionsError
from training.figures import Evaluation
from training.plots import plot_auc, plot_learning
from training.reporting.markdown import to_markdown
from training.reporting.page import PAGE, run_page
from training.reporting.sections import sections_of

_JSON = "report.json"
_TITLE = "Training report"


def write_report(run: Path, evaluation: Evaluation, training: Mapping[str, Any] | None = None) -> Path:
    """Write report.html, report.md, auc.png, learning.png and, last of all, report.json.

    Args:
        run: the run folder.
        evaluation: of its test rows.
        training: what `training.notes.training_record` gives; None or empty leaves the training out.

    Returns:
        The file report.md.
    """
    record = dict(training or {})
    plot_auc(evaluation, run / "auc.png")
    sections = sections_of(evaluation, record, plot_learning(record, run / "learning.png"))
    page = run / "report.md"
    page.write_text(to_markdown(_TITLE, sections), encoding="utf-8")
    (run / PAGE).write_text(run_page(run, _TITLE, sections, evaluation, record), encoding="utf-8")
    content = {"evaluation": evaluation.model_dump(mode="json"), "training": record}
    draft = run / f"{_JSON}.part"
    draft.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(draft, run / _JSON)  # a report.json that is there is whole, and the run finished
    return page


def read_training_record(run: Path) -> dict[str, Any]:
    """Read back the training record of a report; empty where there is no report yet.

    Raises:
        PredictionsError: report.json is there but broken.
    """
    path = run / _JSON
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["training"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PredictionsError(f"{path} is no report ({error}): move it away, and evaluate again") from error
