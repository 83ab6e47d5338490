"""docs/multilora-results.md: of the records, and of nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.claims.mamdr_contest import SEEDS
from benchmarks.claims.multilora_results import PAGE, write_results
from benchmarks.claims.trainings import origin, write_record


def seed(auc: float, passed: bool = False) -> dict[str, Any]:
    """One seed of a method: of two domains, one without a defined AUC."""
    figures = {"pooled": auc, "macro": auc - 0.01, "test": auc, "log_loss": 0.5, "seconds": 30.0}
    ends = {"passed": passed, "low": None, "high": None}
    return {**figures, "domains": {"a": auc, "b": None}, "gated": {"a": ends, "b": {**ends, "passed": False}}}


def methods(prefix: str, mix: float) -> dict[str, Any]:
    rows = {"mix": mix, "multi_lora": mix + 0.01, "single": mix - 0.1}
    return {
        prefix + name: {"config": {}, "seeds": [seed(auc + i / 1000, name == "multi_lora") for i in SEEDS]}
        for name, auc in rows.items()
    }


def test_the_page_is_made_of_the_records(tmp_path: Path) -> None:
    """Law: a table and a plot for each record, every method beside the Mix of its own backbone; else it says so."""
    records, page, images = tmp_path / "records", tmp_path / "docs" / "page.md", tmp_path / "docs" / "images"
    page.parent.mkdir()
    write_results(records, page, images)
    assert page.read_text().count("Not recorded yet") == 3
    assert "![" not in page.read_text()
    found = methods("", 0.7) | methods("deepfm ", 0.8)
    write_record(records / "multilora-movielens.json", {**origin(["d" * 40]), "figure": "pooled", "methods": found})
    write_record(records / "multilora-epinions.json", {**origin([]), "figure": "macro", "methods": methods("", 0.6)})
    write_results(records, page, images)
    text = page.read_text()
    spread = "± 0.0016"
    assert f"| mix | 0.7020 {spread} | 0.6920 {spread} | 0.5000 ± 0.0000 | – | 0.8105 | 30 |" in text
    gain = "+0.0100 [+0.0100, +0.0100]"
    own = f"0.8120 {spread} | 0.8020 {spread} | 0.5000 ± 0.0000"
    assert f"| deepfm multi_lora | {own} | {gain} | 0.8229 | 30 |" in text
    assert f"| a | 0.5020 {spread} | 0.6020 {spread} | 0.6120 {spread} | 5 |" in text
    assert "| b | undefined | undefined | undefined | 0 |" in text
    for name in ("multilora-movielens.png", "multilora-epinions.png"):
        assert f"](images/{name})" in text
        assert (images / name).exists()
    assert text.count("Not recorded yet") == 1


def test_the_page_of_the_repository_is_of_its_records(tmp_path: Path) -> None:
    """Law: nobody's hand has changed it, and no record is newer than it."""
    write_results(page=tmp_path / "page.md", images=tmp_path / "images")
    assert (tmp_path / "page.md").read_text() == PAGE.read_text()
