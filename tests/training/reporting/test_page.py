"""The page of a run: one file, nothing fetched, and everything in it that the report says."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tests.training.reporting.reader import PageReader
from tests.training.reporting.told import RECORD, evaluation_of, renamed
from training.figures import Evaluation
from training.report import write_report
from training.reporting.cards import cards
from training.reporting.page import to_page
from training.reporting.sections import Section, sections_of
from training.tables import Table


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Of the scored rows."""
    return evaluation_of()


@pytest.fixture(scope="module")
def run(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a report."""
    folder = tmp_path_factory.mktemp("run")
    write_report(folder, evaluation, RECORD)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> PageReader:
    """Its page."""
    return PageReader((run / "report.html").read_text(encoding="utf-8"))


def test_page_fetches_and_runs_nothing(page: PageReader) -> None:
    """Law: no script, no link, no source but data in the page itself; and a policy that forbids all else."""
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {found.tag for found in page.seen}
    for found in page.seen:
        for name in ("src", "href", "srcset", "data", "action"):
            assert found.attributes.get(name, "data:").startswith("data:")
        assert not any(name.startswith("on") for name in found.attributes)
    style = page.all("style")[0].words
    assert "url(" not in style
    assert "@import" not in style
    policies = [m for m in page.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policies[0].attributes["content"].startswith("default-src 'none'")


def test_pictures_are_a_part_of_the_page(run: Path, page: PageReader) -> None:
    """Law: each picture of the report is in the page, byte for byte, with words for those who do not see it."""
    sources = [found.attributes["src"] for found in page.all("img")]
    held = [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources]
    assert held == [(run / name).read_bytes() for name in ("auc.png", "learning.png")]
    assert all(found.attributes["alt"] for found in page.all("img"))


def test_page_and_markdown_say_the_same(run: Path, page: PageReader) -> None:
    """Law: every cell of every table, and every title, stand in both."""
    markdown = (run / "report.md").read_text(encoding="utf-8")
    assert len(page.all("table")) == markdown.count("|---|")
    for cell in (*page.all("td"), *page.all("th")):
        assert f"| {cell.words} |" in markdown
    titles = [found.words for found in page.all("h2")]
    assert titles == [line[3:] for line in markdown.splitlines() if line.startswith("## ")] + [
        "Domains, the largest first"
    ]


def test_page_shows_no_path(run: Path) -> None:
    """Law: a page that is passed on tells the data's name, not where it lay."""
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "planted" in text
    assert "private" not in text


def test_each_domain_has_its_card(page: PageReader) -> None:
    """Law: the largest first; each with the gate's decision and reason, a drawing of its AUC or why there is none."""
    found = [card.words for card in page.all("details")]
    assert [words.split(" – ")[0] for words in found] == ["large", "small", "clicks-only", "empty"]
    assert "passes the gate" in found[0]
    assert "LogLoss falls by 0.01" in found[0]
    assert "Validation AUC of large by epoch" in found[0]
    assert "does not pass the gate" in found[1]
    assert "MultiLoRA-avg" in found[1]
    assert "one class only" in found[2]
    assert "no test rows" in found[3]


def test_names_are_never_markup(tmp_path: Path, evaluation: Evaluation) -> None:
    """Law: whatever a domain is called is read back as that text, and adds no element."""
    name = "<script>alert('x')</script> & \"q\" </details>"
    plain = [found.tag for found in _page_of(tmp_path, renamed(evaluation, "large", "plain")).seen]
    reader = _page_of(tmp_path, renamed(evaluation, "large", name))
    assert [found.tag for found in reader.seen] == plain
    assert reader.all("details")[0].words.startswith(name)
    assert any(cell.words == name for cell in reader.all("th"))


def test_prose_keeps_its_marks(tmp_path: Path) -> None:
    """Law: bold and code become elements, and a lone mark stays as it is."""
    reader = PageReader(to_page("t", [Section("", ("**bold** and `code`, 2 ** 3, a ` b",))], tmp_path))
    assert [found.words for found in reader.all("strong")] == ["bold"]
    assert [found.words for found in reader.all("code")] == ["code"]
    assert reader.all("p")[0].words == "bold and code, 2 ** 3, a ` b"


def test_a_table_names_its_rows_and_columns(tmp_path: Path) -> None:
    """Law: headers are headers: of each column, and of each row its first cell."""
    table = Table("T", ("what", "count"), [["a", "1"], ["b", "2"]])
    reader = PageReader(to_page("t", [Section("T", table=table)], tmp_path))
    assert [(th.attributes["scope"], th.words) for th in reader.all("th")] == [
        ("col", "what"),
        ("col", "count"),
        ("row", "a"),
        ("row", "b"),
    ]


def test_a_report_without_training_has_a_page(tmp_path: Path, evaluation: Evaluation) -> None:
    """Law: what is not known is left out, and nothing else."""
    write_report(tmp_path, evaluation)
    reader = PageReader((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(reader.all("img")) == 1
    assert "Publish gate" not in [found.words for found in reader.all("h2")]
    assert json.loads((tmp_path / "report.json").read_text())["training"] == {}


def _page_of(folder: Path, evaluation: Evaluation) -> PageReader:
    sections = [each for each in sections_of(evaluation, {}, False) if each.picture is None]
    return PageReader(to_page("t", sections, folder, cards(evaluation, {})))
