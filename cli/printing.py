"""What a command prints for programs; imports nothing heavy."""

from __future__ import annotations

import json
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def print_json(content: object) -> None:
    """Print one JSON document for programs."""
    typer.echo(json.dumps(content, indent=2, sort_keys=True))
