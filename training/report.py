"""RUN/report.md with its pictures for people, RUN/report.json for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.errors import PredictionsError
from training.figures import Evaluation
from training.judged_tables import calibration_by_domain, verdicts_by_domain
from training.plots import plot_auc, plot_learning
from training.tables import MOST_DOMAINS, Table, auc_by_domain, differences, number, summary

_JSON = "report.json"


def write_report(run: Path, evaluation: Evaluation, training: Mapping[str, Any] | None = None) -> Path:
    """Write report.md, auc.png, learning.png and, last of all, report.json.

    Args:
        run: the run folder.
        evaluation: of its test rows.
        training: what `training.notes.training_record` gives; None or empty leaves the training out.

    Returns:
        The file report.md.
    """
    record = dict(training or {})
    plot_auc(evaluation, run / "auc.png")
    learned = plot_learning(record, run / "learning.png")
    page = run / "report.md"
    page.write_text("\n".join(_page(evaluation, record, learned)) + "\n", encoding="utf-8")
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


def _page(evaluation: Evaluation, record: Mapping[str, Any], learned: bool) -> Iterator[str]:
    yield from ("# Training report", "", *_setting(evaluation, record), "", "![Test AUC by domain](auc.png)")
    for table in (summary(evaluation), auc_by_domain(evaluation), differences(evaluation)):
        yield from ("", f"## {table.title}", "", *_markdown(table))
    left_out = len(evaluation.domains_by_rows()) - MOST_DOMAINS
    if left_out > 0:
        yield from ("", f"{left_out} smaller domains are left out of these tables; report.json has all.")
    if record.get("gate"):
        yield from _gate(record["gate"])
    if record.get("calibration"):
        yield from _calibration(record["calibration"])
    if record:
        yield from _training(record, learned)


def _setting(evaluation: Evaluation, record: Mapping[str, Any]) -> Iterator[str]:
    first = next(iter(evaluation.methods.values())).pooled
    config = record.get("config", {})
    if config.get("data"):
        yield f"Data `{Path(config['data']).name}`, seed {config.get('seed')}."
    yield (
        f"{first.rows:,} test rows, {first.positives:,} of them positive. Brackets are {evaluation.confidence:.0%} "
        f"intervals of a bootstrap over rows ({evaluation.draws:,} draws); a difference takes both methods on the same "
        "resamples. A domain whose test rows have one class only has no AUC."
    )


def _gate(record: Mapping[str, Any]) -> Iterator[str]:
    rules, verdicts = record["rules"], record["domains"]
    passed = sum(verdict["passed"] for verdict in verdicts.values())
    outcome = {
        "withhold": "A domain that does not pass publishes nothing.",
        "record": "The gate was set to record only: domains that do not pass are exported too.",
    }
    yield from ("", "## Publish gate", "")
    yield (
        f"{passed} of {len(verdicts)} natural domains pass, judged as served (calibrated) on rows that nothing else "
        f"saw. {outcome[rules['policy']]} To pass: LogLoss lower than the backbone's (paired z, Benjamini-Hochberg at "
        f"q = {rules['q']:g} over {rules['tested']} domains tested); the {rules['confidence']:.0%} lower bound of the "
        f"AUC difference (DeLong) above -{rules['auc_margin']:g}; ECE not above the backbone's by more than chance; at "
        f"least {rules['min_positives']} positives."
    )
    yield from ("", *_markdown(verdicts_by_domain(record)))
    left_out = len(verdicts) - MOST_DOMAINS
    if left_out > 0:
        yield from ("", f"{left_out} domains with fewer rows are left out of this table; report.json has all.")


def _calibration(record: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "## Calibration", "")
    yield (
        "What natural domains are served by, on the test rows: before and after the line that each domain's `stop` "
        "rows gave (Platt). COPC is observed over predicted clicks; ECE takes 20 bins of equally many rows, in the "
        "order of the probability. All other tables of this report are before calibration. A shift for negatives that "
        "were down-sampled is in the intercept, and not in COPC and ECE, for these rows are down-sampled too."
    )
    yield from ("", *_markdown(calibration_by_domain(record)))


def _training(record: Mapping[str, Any], learned: bool) -> Iterator[str]:
    selection = record.get("selection")
    if selection:
        found = ", ".join(f"{name} {number(auc, 5)}" for name, auc in selection["candidates"].items())
        yield from ("", "## Selection", "")
        yield f"Natural domains are served by **{selection['chosen']}** (validation AUC: {found}), shown as MultiLoRA."
    if learned:
        yield from ("", "## Learning curves", "", "![Validation AUC by epoch](learning.png)", "")
        yield "A ring marks the epoch that was kept; epoch 0 is the untrained start."
    if record.get("parameters"):
        rows = [[name, f"{count:,}"] for name, count in record["parameters"].items()]
        yield from ("", "## Parameters", "", *_markdown(Table("Parameters", ("what", "count"), rows)))


def _markdown(table: Table) -> Iterator[str]:
    yield "| " + " | ".join(table.header) + " |"
    yield "|---|" + "---:|" * (len(table.header) - 1)
    for row in table.rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
