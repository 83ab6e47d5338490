"""A report as one HTML file: nothing is fetched, nothing runs; it may be mailed, and opened years later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, tostring

from training.figures import Evaluation
from training.reporting.cards import cards
from training.reporting.elements import element, embedded, prose, table_element
from training.reporting.sections import Section

PAGE = "report.html"
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""A browser that is told so loads nothing from anywhere, whatever a page's content might ask for."""
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child { text-align: left; }
thead th { border-bottom: 2px solid #999; }
img { max-width: 100%; }
svg text { font-size: 12px; }
.card { border: 1px solid #ddd; border-radius: 4px; margin: .4rem 0; padding: .4rem .8rem; }
.card figure { display: inline-block; margin: .5rem 1.5rem .5rem 0; vertical-align: top; }
figcaption { color: #555; font-size: 13px; }
summary { cursor: pointer; }
"""


def to_page(title: str, sections: Sequence[Section], folder: Path, domains: Sequence[Element] = ()) -> str:
    """Return the whole page.

    Args:
        title: of the page.
        sections: what it says.
        folder: where the sections' pictures lie; they become a part of the page.
        domains: cards that come last.

    Raises:
        OSError: a picture cannot be read.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", _STYLE),
    )
    body = element("body", element("h1", title))
    for section in sections:
        body.extend(_parts(section, folder))
    if domains:
        body.append(element("h2", "Domains, the largest first"))
        body.extend(domains)
    return "<!DOCTYPE html>\n" + tostring(element("html", head, body, lang="en"), encoding="unicode", method="html")


def run_page(
    run: Path, title: str, sections: Sequence[Section], evaluation: Evaluation, record: Mapping[str, Any]
) -> str:
    """Return the page of a run: its sections, and a card for each domain; arguments as for the parts.

    Raises:
        OSError: a picture cannot be read.
    """
    return to_page(title, sections, run, cards(evaluation, record))


def _parts(section: Section, folder: Path) -> Iterator[Element]:
    if section.title:
        yield element("h2", section.title)
    yield from (prose(text) for text in section.text)
    if section.picture is not None:
        yield element("figure", embedded(folder / section.picture.file, section.picture.says))
    if section.table is not None:
        yield table_element(section.table)
    yield from (prose(text) for text in section.after)
