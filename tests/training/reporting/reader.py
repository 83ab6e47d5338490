"""A page as a browser would read it: tags with their attributes, and the text of each element."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class Seen:
    """One element.

    Args:
        tag: its name.
        attributes: of its start tag.
        text: everything inside, elements inside it with it.
    """

    tag: str
    attributes: dict[str, str]
    text: list[str] = field(default_factory=list)

    @property
    def words(self) -> str:
        """The text as one string."""
        return "".join(self.text)


class PageReader(HTMLParser):
    """Collects every element of a page.

    Args:
        page: the HTML.
    """

    _EMPTY = frozenset({"meta", "img", "br", "link"})

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.seen: list[Seen] = []
        self._open: list[Seen] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        found = Seen(tag, {name: value or "" for name, value in attrs})
        self.seen.append(found)
        if tag not in self._EMPTY:
            self._open.append(found)

    def handle_endtag(self, tag: str) -> None:
        """An element ends; each ends in the order in which it began."""
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        """Text inside every element that is open."""
        for found in self._open:
            found.text.append(data)

    def all(self, tag: str) -> list[Seen]:
        """Every element of a name."""
        return [found for found in self.seen if found.tag == tag]
