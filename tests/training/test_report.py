"""The report: readable by programs and people, complete, and there only when whole."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.training.scored import scored_rows
from training.errors import PredictionsError
from training.evaluation import evaluate
from training.figures import Evaluation
from training.report import read_training_record, write_report
from training.tables import MOST_DOMAINS, gains


def curve(*aucs: float | None, first: int = 0) -> dict[str, Any]:
    """A learning curve that keeps its second epoch."""
    history = [{"epoch": first + i, "loss": 0.5, "auc": auc, "seconds": 1.0} for i, auc in enumerate(aucs)]
    return {"epoch": first + 1, "auc": aucs[1], "history": history}


RECORD = {
    "config": {"seed": 3, "data": "somewhere/private/planted"},
    "parameters": {"all": 274_641},
    "pretrain": curve(0.7, 0.8, 0.79, first=1),
    "adapters": {
        "large": {"division": "theme", "rows": 500, **curve(0.7, 0.72)},
        "clicks-only": {"division": "theme", "rows": 50, **curve(None, None)},
    },
    "fuse": {"attention": curve(0.8, 0.81), "avg": curve(0.8, 0.805)},
    "selection": {"chosen": "attention", "candidates": {"backbone": 0.8, "single": None, "attention": 0.81}},
}


FIGURES = {"copc": 1.1, "ece": 0.02, "log_loss": 0.5}
JUDGED = {
    "gate": {
        "rules": {"policy": "withhold", "q": 0.1, "confidence": 0.95, "auc_margin": 0.001, "min_positives": 20}
        | {"domains": 2, "tested": 1},
        "domains": {
            "small": {"passed": False, "reason": "3 positives", "rows": 9, "positives": 3}
            | dict.fromkeys(("log_loss", "auc", "calibration")),
            "large": {
                "passed": True,
                "reason": "LogLoss falls by 0.01",
                "rows": 1500,
                "positives": 700,
                "log_loss": {"backbone": 0.6, "adapter": 0.59, "gain": 0.01, "z": 4.0, "p": 3e-5, "p_adjusted": 6e-5}
                | {"calibration_gain": 0.004},
                "auc": {"backbone": 0.7, "adapter": 0.72, "difference": 0.02, "low": 0.011},
                "calibration": {"backbone": 0.04, "adapter": 0.03, "allowed": 0.05}
                | {"copc_backbone": 1.0, "copc_adapter": 1.0},
            },
        },
    },
    "calibration": {
        "pooled": {"rows": 1509, "positives": 703, "before": FIGURES, "after": {**FIGURES, "copc": 1.003}},
        "domains": {
            "large": {"slope": 0.9, "intercept": 0.123, "fitted": {"reason": None}, "rows": 1500, "positives": 700}
            | {"before": FIGURES, "after": FIGURES},
            "small": {"slope": 1.0, "intercept": 0.0, "fitted": {"reason": "9 rows"}, "rows": 0, "positives": 0}
            | dict.fromkeys(("before", "after"), dict.fromkeys(FIGURES)),
        },
    },
}


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Of the scored rows."""
    return evaluate(scored_rows(), draws=100)


@pytest.fixture(scope="module")
def run(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a report."""
    folder = tmp_path_factory.mktemp("run")
    write_report(folder, evaluation, RECORD)
    return folder


def png_size(path: Path) -> tuple[int, int]:
    """Width and height, from a PNG's header."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    return int(width), int(height)


def test_json_holds_evaluation_and_training(run: Path, evaluation: Evaluation) -> None:
    """Law: report.json is strict JSON with the whole evaluation and training record, as claims and tools read them."""
    content = json.loads((run / "report.json").read_text(), parse_constant=pytest.fail)
    assert Evaluation.model_validate(content["evaluation"]) == evaluation
    assert content["training"] == RECORD
    multi = content["evaluation"]["methods"]["multi_lora"]
    assert set(multi["pooled"]["difference"]) == {"value", "low", "high"}
    assert multi["domains"]["large"]["auc"] > 0.5
    assert content["evaluation"]["bayes"]["pooled"]["auc"] > multi["pooled"]["auc"]


def test_page_names_every_domain_and_method(run: Path) -> None:
    """Law: a reader finds each method, each domain, and in words the one that has one class only or no rows."""
    page = (run / "report.md").read_text()
    for expected in ("backbone", "SingleLoRA", "MultiLoRA", "MultiLoRA-avg", "MultiLoRA-add", "best (Bayes)"):
        assert f"| {expected} |" in page
    assert "| clicks-only |" in page
    assert "| one class |" in page
    assert "| no rows |" in page
    assert "**attention**" in page
    assert "274,641" in page


def test_page_shows_no_path(run: Path) -> None:
    """Law: a report that is passed on tells the data's name, not where it lay."""
    page = (run / "report.md").read_text()
    assert "planted" in page
    assert "private" not in page


def test_every_table_row_is_as_wide_as_its_header(run: Path) -> None:
    """Law: the page's tables are well-formed Markdown."""
    for block in (run / "report.md").read_text().split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1


def test_pictures_that_the_page_shows_are_there(run: Path) -> None:
    """Law: the AUC picture is 1200 x 600 pixels, and no link of the page is dead."""
    assert png_size(run / "auc.png") == (1200, 600)
    assert png_size(run / "learning.png")[0] == 1200
    assert "](auc.png)" in (run / "report.md").read_text()
    assert "](learning.png)" in (run / "report.md").read_text()


def test_a_report_without_training_has_no_learning_picture(tmp_path: Path, evaluation: Evaluation) -> None:
    """Law: nothing is drawn or linked that is not known."""
    write_report(tmp_path, evaluation)
    assert not (tmp_path / "learning.png").exists()
    assert "learning.png" not in (tmp_path / "report.md").read_text()
    assert read_training_record(tmp_path) == {}


def test_training_record_survives(run: Path, tmp_path: Path) -> None:
    """Law: what a report says of the training can be read back for the next report; a broken report is named."""
    assert read_training_record(run) == RECORD
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(PredictionsError, match=r"report\.json"):
        read_training_record(tmp_path)


def test_verdicts_and_calibrations_are_shown(tmp_path: Path, evaluation: Evaluation) -> None:
    """Law: each judged domain has a line with its figures and the reason, the largest first; tables are well-formed."""
    page = write_report(tmp_path, evaluation, JUDGED).read_text()
    assert "1 of 2 natural domains pass" in page
    assert "A domain that does not pass publishes nothing." in page
    assert "over 1 domains tested" in page
    assert (
        "| large | 1,500 | 700 | yes | +0.01000 | +0.00400 | 0.0000 | 0.0001 | +0.0200 | +0.0110 | 0.0300 | 0.0400 |"
        in page
    )
    assert "| small | 9 | 3 | no | – | – | – | – | – | – | – | – | 3 positives |" in page
    assert "| all rows | 1,509 | 1.1000 | 1.0030 | 0.0200 | 0.0200 |" in page
    assert "| 0.9000 | 0.1230 | fitted |" in page
    assert "| 9 rows |" in page
    assert read_training_record(tmp_path) == JUDGED
    for block in page.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1


def test_many_domains_stay_readable(tmp_path: Path, evaluation: Evaluation) -> None:
    """Law: with very many domains the page keeps the largest, says how many it leaves out, and report.json has all."""
    methods = {}
    for name, method in evaluation.methods.items():
        domains = {f"theme-with-a-long-name-{i}": method.domains["large"] for i in range(MOST_DOMAINS + 7)}
        methods[name] = method.model_copy(update={"domains": domains})
    many = evaluation.model_copy(update={"methods": methods, "bayes": None})
    page = write_report(tmp_path, many).read_text()
    assert "7 smaller domains" in page
    assert png_size(tmp_path / "auc.png") == (1200, 600)
    written = json.loads((tmp_path / "report.json").read_text())
    assert len(written["evaluation"]["methods"]["backbone"]["domains"]) == MOST_DOMAINS + 7


def test_gains_are_shown_for_what_the_run_has(evaluation: Evaluation) -> None:
    """Law: the terminal's table has the backbone's AUC and what each present method adds."""
    only = evaluation.model_copy(update={"methods": {"multi_lora": evaluation.methods["multi_lora"]}, "bayes": None})
    assert list(gains(evaluation).header) == ["domain", "backbone", "SingleLoRA", "MultiLoRA"]
    assert list(gains(only).header) == ["domain", "backbone", "MultiLoRA"]
    assert all(len(row) == 3 for row in gains(only).rows)
