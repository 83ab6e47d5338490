"""`espalier token`: bearer tokens for the service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(help="Make bearer tokens for `espalier serve --tokens FILE`.", no_args_is_help=True)

Name = Annotated[str, typer.Option(help="Who will use it; the audit log names it.")]
Scopes = Annotated[list[str], typer.Option("--scope", help="score, read, publish:<pattern> or admin; may be repeated.")]
Out = Annotated[Path, typer.Option(help="Tokens file to add the entry to; it holds the sha256 only.")]


# without it a command that is alone would swallow its own name
@app.callback()
def tokens() -> None:
    """Make bearer tokens for `espalier serve --tokens FILE`."""


@app.command()
def new(name: Name, scope: Scopes, out: Out = Path("tokens.yaml")) -> None:
    """Draw a token, add its sha256 to a tokens file, and print it: it is shown this once and stored nowhere."""
    from service.auth import add_token
    from service.refusals import SettingsInvalid

    stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        token = add_token(out, name, scope)
    except SettingsInvalid as error:
        stderr.print(str(error), markup=False)
        raise typer.Exit(1) from None
    stderr.print(
        f"Added {name!r} ({', '.join(scope)}) to {out}. Running servers read the file when they start.", markup=False
    )
    typer.echo(token)
