"""The one interface of all sinks, which of them a configuration asks for, and what happens when one fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from training.figures import Evaluation
from training.reporting.config import SinksConfig
from training.reporting.errors import SinkError, SinkMissing
from training.reporting.outcome import Outcome, outcome_of
from training.reporting.to_mlflow import MlflowSink
from training.reporting.to_tensorboard import TensorBoardSink


class Sink(Protocol):
    """Takes finished runs elsewhere. Its library is loaded when the first run is sent."""

    @property
    def name(self) -> str:
        """How it is called."""
        ...

    def send(self, outcome: Outcome) -> str:
        """Take a run, or say that it is there already.

        Returns:
            Where it is now.

        Raises:
            SinkFailed: it was not taken; what is there already is unharmed.
        """
        ...


def open_sinks(config: SinksConfig, run: Path) -> list[Sink]:
    """Return the sinks that a configuration asks for; nothing is loaded or sent yet.

    Args:
        config: which.
        run: the run folder.

    Raises:
        SinkMissing: a sink's library is not installed.
    """
    sinks: list[Sink] = []
    if config.tensorboard:
        _require("tensorboard", "tensorboard")
        sinks.append(TensorBoardSink(run / "tensorboard"))
    if config.mlflow is not None:
        _require("mlflow", "mlflow-skinny")
        sinks.append(MlflowSink(config.mlflow.uri, config.mlflow.experiment))
    return sinks


def send_all(
    sinks: Sequence[Sink], run: Path, evaluation: Evaluation, record: Mapping[str, Any], say: Callable[[str], None]
) -> list[SinkError]:
    """Send a run whose report is written to every sink; one that fails does not keep the others from it.

    Args:
        sinks: where to.
        run: the run folder.
        evaluation: of its test rows.
        record: what the report says of the training.
        say: takes a line for each sink.

    Returns:
        What went wrong.
    """
    if not sinks:
        return []
    outcome = outcome_of(run, evaluation, record)
    failed: list[SinkError] = []
    for sink in sinks:
        try:
            say(f"{sink.name}: {sink.send(outcome)}")
        except SinkError as error:
            failed.append(error)
            say(f"{sink.name} did not take the run: {error}. The run is whole; `espalier evaluate` sends it again")
    return failed


def _require(module: str, package: str) -> None:
    if find_spec(module) is None:
        raise SinkMissing(f"this sink needs {package}: `pip install {package}`, or leave it out of `sinks`")
