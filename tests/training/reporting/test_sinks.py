"""Sinks: one interface, each read back with its own library; none of them can lose a run."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.training.reporting.told import RECORD, evaluation_of
from tests.training.small import small_config
from training.figures import Evaluation
from training.pipeline import train_all
from training.report import write_report
from training.reporting.config import MlflowConfig, SinksConfig
from training.reporting.errors import SinkFailed, SinkMissing
from training.reporting.outcome import Outcome, Point, outcome_of
from training.reporting.sinks import open_sinks, send_all


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Of the scored rows."""
    return evaluation_of()


@pytest.fixture(scope="module")
def written(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a report; nobody may change it."""
    folder = tmp_path_factory.mktemp("written")
    write_report(folder, evaluation, RECORD)
    return folder


@pytest.fixture
def run(written: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(written, tmp_path / "run"))


@pytest.fixture
def outcome(run: Path, evaluation: Evaluation) -> Outcome:
    """What sinks are told of it."""
    return outcome_of(run, evaluation, RECORD)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an MLflow store in a folder."""
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return (tmp_path / "mlruns").as_uri()


class Recorder:
    """A sink that remembers what it was sent, or fails."""

    def __init__(self, name: str, fails: bool = False) -> None:
        self.name = name
        self.sent: list[Outcome] = []
        self._fails = fails

    def send(self, outcome: Outcome) -> str:
        """Take a run."""
        if self._fails:
            raise SinkFailed("no room")
        self.sent.append(outcome)
        return "here"


def test_no_sink_is_the_default(tmp_path: Path) -> None:
    """Law: unless the configuration asks, nothing is told anywhere."""
    assert open_sinks(small_config(None).sinks, tmp_path) == []


def test_sinks_are_told_everything_but_where_data_lay(run: Path, outcome: Outcome, evaluation: Evaluation) -> None:
    """Law: settings key by key, every figure, every curve, the report's files; no path of the data, no sink's URI."""
    assert outcome.settings == {
        "seed": "3",
        "data": "planted",
        "pretrain.lr": "0.001",
        "backbone.tower": "[16, 8]",
    }
    figures = {point.tag: point.value for point in outcome.figures}
    assert figures["test", "multi_lora", "auc"] == evaluation.methods["multi_lora"].pooled.auc
    assert figures["domains", "large", "backbone"] == evaluation.methods["backbone"].domains["large"].auc
    assert ("domains", "clicks-only", "backbone") not in figures
    curve = [(point.step, point.value) for point in outcome.curves if point.tag == ("adapters", "large", "auc")]
    assert curve == [(0, 0.7), (1, 0.72), (2, 0.71)]
    assert [path.name for path in outcome.files] == ["report.html", "report.md", "auc.png", "learning.png"]


def test_a_sink_that_fails_keeps_no_other_from_the_run(run: Path, evaluation: Evaluation) -> None:
    """Law: every sink is tried, what failed is said with how to send it again, and nothing is raised."""
    said: list[str] = []
    first, broken, last = Recorder("one"), Recorder("two", fails=True), Recorder("three")
    failed = send_all([first, broken, last], run, evaluation, RECORD, said.append)
    assert [str(error) for error in failed] == ["no room"]
    assert len(first.sent) == len(last.sent) == 1
    assert said[0] == "one: here"
    assert "two did not take the run: no room" in said[1]
    assert "espalier evaluate" in said[1]


@pytest.mark.parametrize(
    ("library", "keys", "package"),
    [
        ("tensorboard", {"tensorboard": True}, "tensorboard"),
        ("mlflow", {"mlflow": {"uri": "http://localhost:1"}}, "mlflow-skinny"),
    ],
)
def test_a_library_that_is_missing_is_said_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, keys: dict[str, Any], package: str
) -> None:
    """Law: the error names the package to install, and not even the run folder has been made."""
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SinkMissing, match=f"pip install {package}"):
        train_all(small_config(tmp_path, sinks=keys), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_uri_holds_no_password() -> None:
    """Law: a configuration is kept in reports, so a URI with user and password is refused."""
    with pytest.raises(ValidationError, match="MLFLOW_TRACKING_PASSWORD"):
        MlflowConfig(uri="https://me:secret@mlflow:5000")


def test_tensorboard_reads_every_series_once(run: Path, outcome: Outcome) -> None:
    """Law: each point is there under its tag and step; sending again replaces, and does not repeat."""
    pytest.importorskip("tensorboard")
    (sink,) = open_sinks(SinksConfig(tensorboard=True), run)
    for _ in range(2):
        assert sink.send(outcome) == str(run / "tensorboard")
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(run / "tensorboard")).Reload()
    points = [*outcome.figures, *outcome.curves]
    assert set(events.Tags()["scalars"]) == {"/".join(point.tag) for point in points}
    found = {(tag, e.step): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}
    assert found == {("/".join(p.tag), p.step): pytest.approx(p.value, rel=1e-6) for p in points}
    assert all(len(events.Scalars(tag)) == len({e.step for e in events.Scalars(tag)}) for tag in {t for t, _ in found})
    text = events.Tensors("settings")[0].tensor_proto.string_val[0].decode()
    assert "| pretrain.lr | 0.001 |" in text
    assert [path.name for path in run.iterdir() if path.name.endswith(".part")] == []


def test_a_folder_that_cannot_be_written_is_an_error_of_the_sink(run: Path, outcome: Outcome) -> None:
    """Law: the library's and the system's errors become SinkFailed."""
    pytest.importorskip("tensorboard")
    (run / "tensorboard").write_text("a file in the way")
    (sink,) = open_sinks(SinksConfig(tensorboard=True), run)
    with pytest.raises(SinkFailed, match="tensorboard"):
        sink.send(outcome)
    assert (run / "tensorboard").read_text() == "a file in the way"


def test_mlflow_has_the_run_once(run: Path, outcome: Outcome, server: str) -> None:
    """Law: settings, figures, curves and report are in one finished run; the same report is not sent twice."""
    (sink,) = open_sinks(SinksConfig(mlflow=MlflowConfig(uri=server, experiment="laws")), run)
    sink.send(outcome)
    assert "already" in sink.send(outcome)
    client = importlib.import_module("mlflow.tracking").MlflowClient(tracking_uri=server)
    (found,) = client.search_runs([client.get_experiment_by_name("laws").experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert found.data.params == outcome.settings
    for point in outcome.figures:
        assert found.data.metrics["/".join(point.tag)] == pytest.approx(point.value)
    curve = client.get_metric_history(found.info.run_id, "adapters/large/auc")
    assert [(entry.step, entry.value) for entry in curve] == [(0, 0.7), (1, 0.72), (2, 0.71)]
    names = {artifact.path for artifact in client.list_artifacts(found.info.run_id)}
    assert names == {"report.html", "report.md", "auc.png", "learning.png"}


def test_mlflow_takes_any_name_of_a_domain(run: Path, server: str) -> None:
    """Law: a name with characters that MLflow refuses is written with their numbers, and two names stay two."""
    points = tuple(Point(("domains", name, "m"), 0, value) for name, value in (("a/b", 0.1), ("ä..", 0.2)))
    odd = Outcome("odd", {}, points, (), (), "digest")
    (sink,) = open_sinks(SinksConfig(mlflow=MlflowConfig(uri=server)), run)
    sink.send(odd)
    client = importlib.import_module("mlflow.tracking").MlflowClient(tracking_uri=server)
    (found,) = client.search_runs([client.get_experiment_by_name("espalier").experiment_id])
    assert found.data.metrics == {"domains/a_2f_b/m": 0.1, "domains/_e4_/m": 0.2}


def test_a_server_that_refuses_is_an_error_of_the_sink(
    tmp_path: Path, run: Path, outcome: Outcome, server: str
) -> None:
    """Law: the library's errors become SinkFailed, which names the server."""
    (tmp_path / "mlruns").write_text("a file where the store should be")
    (sink,) = open_sinks(SinksConfig(mlflow=MlflowConfig(uri=server)), run)
    with pytest.raises(SinkFailed, match="mlruns"):
        sink.send(outcome)
