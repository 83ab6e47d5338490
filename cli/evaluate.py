"""`espalier evaluate`: a finished run's figures once more, or configurations over several seeds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

from cli.stores import refused

if TYPE_CHECKING:
    from training.reporting.config import SinksConfig
    from training.tables import Table
    from training.trials.sitting import Sat
    from training.trials.table import SeedsTable

_RUN = "a run"
_SEEDS = "--seeds"


def evaluate(
    run: Annotated[
        Path | None, typer.Argument(help="Folder that `espalier train all` wrote.", file_okay=False, show_default=False)
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option("--draws", help="Bootstrap resamples behind each interval; by default as the run had.", min=100),
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write RUN/tensorboard.")] = False,
    mlflow: Annotated[
        str | None, typer.Option("--mlflow", help="Also send the run to the MLflow server of this URI.")
    ] = None,
    experiment: Annotated[str, typer.Option("--experiment", help="Of MLflow (--mlflow).")] = "espalier",
    seeds: Annotated[
        int | None, typer.Option(_SEEDS, help="Instead of a run: train each --config with this many seeds.", min=1)
    ] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option("--config", help="YAML training configuration (--seeds); several are compared.", dir_okay=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the table (--seeds); gone on with.", file_okay=False)
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Prepared data; replaces the configurations' (--seeds).")
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="Line that the others are compared with (--seeds).")
    ] = None,
    most: Annotated[int | None, typer.Option("--most", help="Trainings of this sitting (--seeds).", min=0)] = None,
    any_commit: Annotated[
        bool, typer.Option("--any-commit", help="Take kept results of other code too (--seeds).")
    ] = False,
    keep_runs: Annotated[
        bool, typer.Option("--keep-runs", help="Leave the run folders of finished trainings (--seeds).")
    ] = False,
) -> None:
    """Evaluate RUN/predictions.parquet again: prints the figures, rewrites report.json, report.html and the plots.

    With --seeds: train every configuration with seeds 0, 1, ..., and test differences seed by seed. What is finished
    is kept; the same command goes on where it was stopped.
    """
    if (run is None) == (seeds is None):
        raise typer.BadParameter("give the folder of a run, or --seeds with --config and --out", param_hint="RUN")
    if run is not None:
        flags = {"any-commit": any_commit or None, "keep-runs": keep_runs or None}
        _refuse_others(_SEEDS, config=config, out=out, data=data, against=against, most=most, **flags)
        _evaluate_run(run, draws, _sinks(tensorboard, mlflow, experiment))
    elif seeds is not None:
        _refuse_others(_RUN, draws=draws, tensorboard=tensorboard or None, mlflow=mlflow)
        if not config or out is None:
            raise typer.BadParameter("it needs --config FILE and --out DIR", param_hint=_SEEDS)
        _evaluate_seeds(seeds, config, out, data, against, most, any_commit, keep_runs)


def _refuse_others(wanted: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None and value != []:
            raise typer.BadParameter(f"it goes with {wanted}", param_hint=f"--{name}")


def _sinks(tensorboard: bool, mlflow: str | None, experiment: str) -> SinksConfig:
    from pydantic import ValidationError

    from training.reporting.config import SinksConfig

    server = None if mlflow is None else {"uri": mlflow, "experiment": experiment}
    try:
        return SinksConfig.model_validate({"tensorboard": tensorboard, "mlflow": server})
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"], param_hint="--mlflow") from None


def _evaluate_run(run: Path, draws: int | None, sinks: SinksConfig) -> None:
    # polars and matplotlib: only once this command really runs
    from training.errors import TrainingError
    from training.evaluation import DRAWS
    from training.evaluation import evaluate as evaluate_predictions
    from training.predictions import read_predictions
    from training.report import read_training_record, write_report
    from training.reporting.sinks import open_sinks, send_all
    from training.tables import gains, summary

    console = Console(highlight=False)
    try:
        predictions, record = read_predictions(run), read_training_record(run)
        opened = open_sinks(sinks, run)
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
    console.print(f"page: {report.with_suffix('.html')}", soft_wrap=True, markup=False)
    if send_all(opened, run, evaluation, record, lambda line: _say(console, line)):
        raise typer.Exit(1)


def _evaluate_seeds(
    seeds: int,
    configs: list[Path],
    out: Path,
    data: Path | None,
    against: str | None,
    most: int | None,
    any_commit: bool,
    keep_runs: bool,
) -> None:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # read once, when torch is loaded; `cli.train` has the reason
    from adapters_store.errors import StoreError
    from network.errors import NetworkError
    from training.errors import TrainingError
    from training.progress import RichMeter
    from training.trials.code import code_commit
    from training.trials.errors import TrialsError
    from training.trials.seeds import read_any, trials_of, write_seeds
    from training.trials.sitting import Sitting
    from training.trials.table import check_against
    from training.trials.trial import train_trial

    names = [path.stem for path in configs]
    if len(set(names)) < len(names):
        raise typer.BadParameter("a configuration is called by its file's name: give files of other names")
    console = Console(highlight=False)
    try:
        settings = {path.stem: read_any(path, data=data) for path in configs}
        if against is not None:
            check_against(against, settings.keys())
        trials = trials_of(settings, seeds, code_commit())
        out.mkdir(parents=True, exist_ok=True)
        sitting = Sitting(out, train_trial, RichMeter(console), any_commit=any_commit, keep_runs=keep_runs)
        sat = sitting.run(trials, most)
        table = _table_of(console, sat, against, several=len(settings) > 1)
        page = None if table is None else write_seeds(out, table, sat, trials)
    except (TrainingError, StoreError, NetworkError) as error:
        raise refused(error) from error
    except OSError as error:
        stopped = f"cannot go on in {out}: {error.strerror or error}; what is finished is kept"
        raise refused(TrialsError(f"{stopped}, and the same command goes on")) from error
    except KeyboardInterrupt:
        _say(console, f"stopped; the same command goes on with {out}")
        raise typer.Exit(130) from None
    if table is not None:
        _tell(console, table, sat)
        _say(console, f"page: {page}")


def _table_of(console: Console, sat: Sat, against: str | None, several: bool) -> SeedsTable | None:
    """The table of what is there; None, and a line why, where what it needs is still to be trained."""
    from training.trials.errors import NoComparison
    from training.trials.table import SeedsTable

    try:
        return SeedsTable(sat.found, against, several)
    except NoComparison as error:
        if not sat.missing:
            raise
        left = f"{len(sat.missing)} trainings are left: the same command goes on"
        _say(console, f"no table yet: {error}; {left}")
        return None


def _tell(console: Console, table: SeedsTable, sat: Sat) -> None:
    for metric in ("auc", "macro_auc"):
        console.print(_shown(table.over_seeds(metric)))
        console.print()
    if sat.missing:
        _say(console, f"{len(sat.missing)} trainings are left: the same command goes on")


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, markup=False)


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
