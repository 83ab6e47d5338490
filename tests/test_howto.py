"""What the guides say to type can be typed, and what they point at is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.test_readme import ROOT, parse

DOCS = sorted((ROOT / "docs").glob("*.md"))
GUIDE = (ROOT / "docs" / "howto.md").read_text()
COMMANDS = re.findall(r"(?:^|\$\()espalier ([^#)\n]+)", GUIDE, re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_guide_parses(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: every espalier command in the how-tos names a command, and only options that it has."""
    monkeypatch.setenv("ESPALIER_STORE", "file:///srv/espalier")
    assert parse(shlex.split(line)).startswith("espalier ")


def test_the_guide_has_commands() -> None:
    """Law: the test above can fail."""
    assert len(COMMANDS) >= 20


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_what_a_page_points_at_is_there(page: Path) -> None:
    """Law: no link from one page of docs/ to a file is broken."""
    links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_what_the_guide_lists_is_on_it() -> None:
    """Law: each entry of the guide's contents leads to a heading."""
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^## (.+)$", GUIDE, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", GUIDE)) == anchors
