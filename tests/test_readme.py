"""What the README says to type can be typed, and what it points at is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.main import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"(?:^|\$\()espalier ([^#)\n]+)", README, re.MULTILINE)


def parse(arguments: list[str]) -> str:
    """Parse a command line without running it; the command it names. An unknown option raises typer's usage error."""
    command: Any = typer.main.get_command(app)
    context: Any = None
    name: str | None = "espalier"
    while True:
        context = command.make_context(name, arguments, parent=context)
        resolve = getattr(command, "resolve_command", None)
        if resolve is None:
            return str(context.command_path)
        name, command, arguments = resolve(context, [*getattr(context, "_protected_args", []), *context.args])


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_parses(line: str) -> None:
    """Law: every espalier command in the README names a command, and only options that it has."""
    assert parse(shlex.split(line)).startswith("espalier ")


def test_a_misspelt_option_does_not_parse() -> None:
    """Law: the test above can fail."""
    assert len(COMMANDS) >= 7
    with pytest.raises(Exception, match="No such option: --stor"):
        parse(["publish", "run", "--stor", "file:///x"])


def test_what_the_readme_points_at_is_there() -> None:
    """Law: no link of the README is broken."""
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert len(links) >= 6
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("target", ["demo", "test", "lint", "bench", "claims-main"])
def test_the_makefile_has_what_the_readme_names(target: str) -> None:
    """Law: the make targets of the documentation exist."""
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
