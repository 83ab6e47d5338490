"""`espalier evaluate`: the figures and pictures of a finished run once more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from cli.stores import refused

if TYPE_CHECKING:
    from training.tables import Table


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder that `espalier train all` wrote.", file_okay=False)],
    draws: Annotated[
        int | None,
        typer.Option("--draws", help="Bootstrap resamples behind each interval; by default as the run had.", min=100),
    ] = None,
) -> None:
    """Evaluate RUN/predictions.parquet again: prints the figures, rewrites report.json, report.md and the plots."""
    # polars and matplotlib: only once this command really runs
    from training.errors import TrainingError
    from training.evaluation import DRAWS
    from training.evaluation import evaluate as evaluate_predictions
    from training.predictions import read_predictions
    from training.report import read_training_record, write_report
    from training.tables import gains, summary

    console = Console(highlight=False)
    try:
        predictions, record = read_predictions(run), read_training_record(run)
    except TrainingError as error:
        raise refused(error) from error
    config = record.get("config", {})
    seed, recorded = int(config.get("seed", 0)), int(config.get("bootstrap_draws", DRAWS))
    with console.status(f"comparing {len(predictions.logits)} methods on {len(predictions.label):,} rows"):
        evaluation = evaluate_predictions(predictions, seed, draws or recorded)
        report = write_report(run, evaluation, record)
    for table in (summary(evaluation), gains(evaluation)):
        console.print(_shown(table))
        console.print()
    console.print(f"report: {report}", soft_wrap=True, markup=False)


def _shown(table: Table) -> RichTable:
    shown = RichTable(
        title=table.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True
    )
    for place, name in enumerate(table.header):
        short = name.replace("-", "\n").replace(" ", "\n")  # so that all methods fit side by side
        shown.add_column(short, justify="right" if place else "left", no_wrap=place == 0)
    for row in table.rows:
        shown.add_row(*row)
    return shown
