"""What a report says, in order, before it becomes Markdown or HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.figures import Evaluation
from training.judged_tables import calibration_by_domain, verdicts_by_domain
from training.tables import MOST_DOMAINS, Table, auc_by_domain, differences, number, summary


@dataclass(frozen=True)
class Picture:
    """A picture that lies beside the report.

    Args:
        file: its name.
        says: what it shows, in a few words.
    """

    file: str
    says: str


@dataclass(frozen=True)
class Section:
    """One part of a report. In prose `**bold**` and `` `code` `` are marked as in Markdown.

    Args:
        title: of the part; empty where the report's own stands above it.
        text: paragraphs that come first.
        picture: below them.
        table: below that.
        after: paragraphs that come last.
    """

    title: str
    text: Sequence[str] = ()
    picture: Picture | None = None
    table: Table | None = None
    after: Sequence[str] = ()


def sections_of(evaluation: Evaluation, record: Mapping[str, Any], learned: bool) -> list[Section]:
    """Return everything that a run's report says.

    Args:
        evaluation: of its test rows.
        record: what `training.notes.training_record` gives, the gate and the calibration beside it; parts that it
            lacks are left out.
        learned: whether learning.png was drawn.
    """
    return [*_evaluated(evaluation, record), *_judged(record), *_trained(record, learned)]


def _evaluated(evaluation: Evaluation, record: Mapping[str, Any]) -> Iterator[Section]:
    yield Section("", (_setting(evaluation, record),), Picture("auc.png", "Test AUC by domain"))
    tables = [build(evaluation) for build in (summary, auc_by_domain, differences)]
    left_out = len(evaluation.domains_by_rows()) - MOST_DOMAINS
    said = f"{left_out} smaller domains are left out of these tables; report.json has all."
    for table in tables:
        last = table is tables[-1] and left_out > 0
        yield Section(table.title, table=table, after=(said,) if last else ())


def _setting(evaluation: Evaluation, record: Mapping[str, Any]) -> str:
    first = next(iter(evaluation.methods.values())).pooled
    config = record.get("config", {})
    data = f"Data `{Path(config['data']).name}`, seed {config.get('seed')}.\n" if config.get("data") else ""
    return (
        f"{data}{first.rows:,} test rows, {first.positives:,} of them positive. Brackets are "
        f"{evaluation.confidence:.0%} intervals of a bootstrap over rows ({evaluation.draws:,} draws); a difference "
        "takes both methods on the same resamples. A domain whose test rows have one class only has no AUC."
    )


def _judged(record: Mapping[str, Any]) -> Iterator[Section]:
    if record.get("gate"):
        yield _gate(record["gate"])
    if record.get("calibration"):
        said = (
            "What natural domains are served by, on the test rows: before and after the line that each domain's `stop` "
            "rows gave (Platt). COPC is observed over predicted clicks; ECE takes 20 bins of equally many rows, in the "
            "order of the probability. All other tables of this report are before calibration. A shift for negatives "
            "that were down-sampled is in the intercept, and not in COPC and ECE, for these rows are down-sampled too."
        )
        yield Section("Calibration", (said,), table=calibration_by_domain(record["calibration"]))


def _gate(record: Mapping[str, Any]) -> Section:
    rules, verdicts = record["rules"], record["domains"]
    passed = sum(verdict["passed"] for verdict in verdicts.values())
    outcome = {
        "withhold": "A domain that does not pass publishes nothing.",
        "record": "The gate was set to record only: domains that do not pass are exported too.",
    }
    said = (
        f"{passed} of {len(verdicts)} natural domains pass, judged as served (calibrated) on rows that nothing else "
        f"saw. {outcome[rules['policy']]} To pass: LogLoss lower than the backbone's (paired z, Benjamini-Hochberg at "
        f"q = {rules['q']:g} over {rules['tested']} domains tested); the {rules['confidence']:.0%} lower bound of the "
        f"AUC difference (DeLong) above -{rules['auc_margin']:g}; ECE not above the backbone's by more than chance; at "
        f"least {rules['min_positives']} positives. Beside the gain stands what calibrating the backbone would gain "
        "without an adapter."
    )
    left_out = len(verdicts) - MOST_DOMAINS
    rest = f"{left_out} domains with fewer rows are left out of this table; report.json has all."
    return Section("Publish gate", (said,), table=verdicts_by_domain(record), after=(rest,) if left_out > 0 else ())


def _trained(record: Mapping[str, Any], learned: bool) -> Iterator[Section]:
    selection = record.get("selection")
    if selection:
        found = ", ".join(f"{name} {number(auc, 5)}" for name, auc in selection["candidates"].items())
        chosen = selection["chosen"]
        said = f"Natural domains are served by **{chosen}** (validation AUC: {found}), shown as MultiLoRA."
        yield Section("Selection", (said,))
    if learned:
        said = "A ring marks the epoch that was kept; epoch 0 is the untrained start."
        yield Section("Learning curves", picture=Picture("learning.png", "Validation AUC by epoch"), after=(said,))
    if record.get("parameters"):
        rows = [[name, f"{count:,}"] for name, count in record["parameters"].items()]
        yield Section("Parameters", table=Table("Parameters", ("what", "count"), rows))
