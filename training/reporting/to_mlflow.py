"""A run in MLflow. The one file that loads MLflow.

Authentication, time-outs and retries are MLflow's own environment variables.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, TypeVar

from training.reporting.errors import SinkFailed
from training.reporting.outcome import Outcome, Point

T = TypeVar("T")

_TAG = "espalier.report"
_PER_CALL = 100
"""Of parameters, and of metrics: what MLflow takes at most of the former."""
_LONGEST = 500
"""Of a parameter's text: what every release of MLflow takes."""
_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_\-. :]")


class MlflowSink:
    """Makes one MLflow run of a run: settings as parameters, figures and curves as metrics, the report as artifacts.

    A run that is there already, by the digest of its report, is not sent again.

    Args:
        uri: of the tracking server.
        experiment: that it becomes a part of; made if it is not there.
    """

    name = "MLflow"

    def __init__(self, uri: str, experiment: str) -> None:
        self._uri = uri
        self._experiment = experiment

    def send(self, outcome: Outcome) -> str:
        """Send the run; see `Sink.send`. What is sent half is marked as failed there."""
        # MLflow reports its use to its makers unless told not to; read when it is loaded
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        refused = import_module("mlflow.exceptions").MlflowException
        try:
            return self._sent(outcome)
        except (refused, OSError) as error:  # its HTTP errors are OSErrors
            first = str(error).split("\n", 1)[0]
            raise SinkFailed(f"the server at {self._uri} refused, or cannot be reached ({first})") from None

    def _sent(self, outcome: Outcome) -> str:
        client = import_module("mlflow.tracking").MlflowClient(tracking_uri=self._uri)
        experiment = self._experiment_id(client)
        there = client.search_runs(
            [experiment], f"tags.`{_TAG}` = '{outcome.digest}' and attributes.status = 'FINISHED'", max_results=1
        )
        if there:
            return f"run {there[0].info.run_id} of {self._experiment!r} has this report already"
        run = client.create_run(experiment, run_name=outcome.name, tags={_TAG: outcome.digest}).info.run_id
        try:
            _fill(client, run, outcome)
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one that is told
                client.set_terminated(run, "FAILED")
            raise
        client.set_terminated(run, "FINISHED")
        return f"run {run} of {self._experiment!r}"

    def _experiment_id(self, client: Any) -> str:
        found = client.get_experiment_by_name(self._experiment)
        return str(client.create_experiment(self._experiment) if found is None else found.experiment_id)


def _fill(client: Any, run: str, outcome: Outcome) -> None:
    entities = import_module("mlflow.entities")
    now_ms = int(time.time() * 1000)
    settings = [entities.Param(_name((key,)), value[:_LONGEST]) for key, value in outcome.settings.items()]
    points: Sequence[Point] = (*outcome.figures, *outcome.curves)
    metrics = [entities.Metric(_name(point.tag), point.value, now_ms, point.step) for point in points]
    for part in _parts(settings):
        client.log_batch(run, params=part)
    for part in _parts(metrics):
        client.log_batch(run, metrics=part)
    for path in outcome.files:
        client.log_artifact(run, str(path))


def _parts(whole: Sequence[T]) -> Iterator[Sequence[T]]:
    for first in range(0, len(whole), _PER_CALL):
        yield whole[first : first + _PER_CALL]


def _name(tag: tuple[str, ...]) -> str:
    """A name that MLflow takes: a character that it does not allow is written as its number."""
    return "/".join(_NOT_ALLOWED.sub(lambda found: f"_{ord(found[0]):02x}_", part).strip(".") or "_" for part in tag)
