"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from training.reporting.sections import Section
from training.tables import Table


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Return the whole report; pictures are linked, not held."""
    blocks = [f"# {title}", *(block for section in sections for block in _blocks(section))]
    return "\n\n".join(blocks) + "\n"


def _blocks(section: Section) -> Iterator[str]:
    if section.title:
        yield f"## {section.title}"
    yield from section.text
    if section.picture is not None:
        yield f"![{section.picture.says}]({section.picture.file})"
    if section.table is not None:
        yield "\n".join(_lines(section.table))
    yield from section.after


def _lines(table: Table) -> Iterator[str]:
    yield "| " + " | ".join(table.header) + " |"
    yield "|---|" + "---:|" * (len(table.header) - 1)
    for row in table.rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
