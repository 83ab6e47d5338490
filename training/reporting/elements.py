"""HTML built as a tree, so that every name and number is escaped where it is written."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement

from training.tables import Table

_MARKED = re.compile(r"(\*\*[^*]+\*\*|`[^`]+`)")
Part = Element | str


def element(tag: str, *parts: Part, **attributes: str) -> Element:
    """Return an element.

    Args:
        tag: its name.
        parts: text and elements inside, in order.
        attributes: by name; a `_` at the end is dropped, any other becomes `-`.
    """
    found = Element(tag, {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()})
    for part in parts:
        add(found, part)
    return found


def add(parent: Element, part: Part) -> None:
    """Put text or an element at the end of another."""
    if isinstance(part, Element):
        parent.append(part)
    elif len(parent):
        parent[-1].tail = (parent[-1].tail or "") + part
    else:
        parent.text = (parent.text or "") + part


def prose(text: str) -> Element:
    """Return a paragraph; `**bold**` and `` `code` `` become elements."""
    return element("p", *_marked(text))


def _marked(text: str) -> Iterator[Part]:
    for piece in _MARKED.split(text):
        if piece.startswith("**") and piece.endswith("**") and len(piece) > 4:
            yield element("strong", piece[2:-2])
        elif piece.startswith("`") and piece.endswith("`") and len(piece) > 2:
            yield element("code", piece[1:-1])
        elif piece:
            yield piece


def table_element(table: Table) -> Element:
    """Return a table whose first column names its rows; it scrolls sideways where it is too wide."""
    found = element("table")
    header = SubElement(SubElement(found, "thead"), "tr")
    for name in table.header:
        header.append(element("th", name, scope="col"))
    body = SubElement(found, "tbody")
    for row in table.rows:
        line = SubElement(body, "tr")
        for place, cell in enumerate(row):
            line.append(element("td", cell) if place else element("th", cell, scope="row"))
    return element("div", found, class_="wide")


def embedded(path: Path, says: str) -> Element:
    """Return a PNG as a part of the page itself.

    Args:
        path: of the PNG.
        says: what it shows, for those who do not see it.

    Raises:
        OSError: it cannot be read.
    """
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    return element("img", alt=says, src=f"data:image/png;base64,{content}")
