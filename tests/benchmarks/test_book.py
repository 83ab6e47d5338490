"""The report of claims: one part a group, each replaced by itself."""

from __future__ import annotations

from benchmarks.claims.book import part, read_report, written_report
from benchmarks.claims.line import Line, exactly, measured


def test_a_report_is_read_as_it_was_written() -> None:
    """Law: whatever parts are written, the same are read, in their order; writing them again changes no byte."""
    lines = [exactly("answers | in all", 3, 3), measured("### no heading", "1")]
    sets = {"store": {name: part(name, lines, False) for name in ("b", "a")}, "main": {"c": part("c", [], True)}}
    text = written_report(sets)
    assert read_report(text) == sets
    assert [list(parts) for parts in read_report(text).values()] == [["b", "a"], ["c"]]
    assert written_report(read_report(text)) == text


def test_a_bar_in_a_cell_is_no_border() -> None:
    """Law: a row of the report has as many cells as its head, whatever stands in them."""
    row = Line("max |dp|", "a|b", "", "measured").row()
    assert row.replace("\\|", "").count("|") == 5
    assert row.startswith("| max \\|dp\\| |")
