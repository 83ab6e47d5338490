"""`espalier token`: bearer tokens for the service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.printing import AsJson, print_json

if TYPE_CHECKING:
    from service.rate_limits import Limits

app = typer.Typer(help="Make, list and revoke bearer tokens for `espalier serve --tokens FILE`.", no_args_is_help=True)

FILE = Path("tokens.yaml")
TAKEN_UP = (
    "Running servers take it up at their next look (`tokens_reload_s`, 10 s unless set), or at once on SIGHUP; "
    "one without --tokens has to be started with it."
)
Name = Annotated[str, typer.Option(help="Who will use it; the audit log names it.")]
Scopes = Annotated[list[str], typer.Option("--scope", help="score, read, publish:<pattern> or admin; may be repeated.")]
Out = Annotated[Path, typer.Option(help="Tokens file to add the entry to; it holds the sha256 only.")]
File = Annotated[Path, typer.Option("--file", help="Tokens file.")]
Requests = Annotated[
    float | None,
    typer.Option("--requests-per-s", help="Requests a second in the long run, in each worker."),
]
Burst = Annotated[int | None, typer.Option(help="Requests at once after a pause; one second's worth if left out.")]
Rows = Annotated[float | None, typer.Option("--rows-per-s", help="Scored items a second, in each worker.")]


@app.command()
def new(
    name: Name,
    scope: Scopes,
    out: Out = FILE,
    requests_per_s: Requests = None,
    burst: Burst = None,
    rows_per_s: Rows = None,
) -> None:
    """Draw a token, add its sha256 to a tokens file, and print it: it is shown this once and stored nowhere."""
    from service.rate_limits import Limits
    from service.token_writing import add_token

    with _told() as stderr:
        token = add_token(out, name, scope, Limits(requests_per_s, burst, rows_per_s))
    stderr.print(f"Added {name!r} ({', '.join(scope)}) to {out}. {TAKEN_UP}", markup=False)
    typer.echo(token)


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="Of the token.")], file: File = FILE) -> None:
    """Take a token out of a tokens file."""
    from service.token_writing import revoke_token

    with _told() as stderr:
        revoke_token(file, name)
    stderr.print(f"Revoked {name!r} in {file}. {TAKEN_UP}", markup=False)


@app.command("list")
def list_(file: File = FILE, as_json: AsJson = False) -> None:
    """List the tokens of a file: names, scopes and limits."""
    from service.token_writing import list_tokens

    with _told():
        entries = list_tokens(file)
    if as_json:
        print_json([entry.model_dump(exclude={"sha256"}, exclude_none=True) for entry in entries])
        return
    table = Table("name", "scopes", "limits", box=None, pad_edge=False)
    for entry in entries:
        table.add_row(entry.name, " ".join(entry.scopes), _shown(entry.limits))
    Console(highlight=False, soft_wrap=True, markup=False).print(table)


@contextmanager
def _told() -> Iterator[Console]:
    """A console on stderr; what the tokens file refuses is told there, and ends the command with 1."""
    from service.refusals import SettingsInvalid

    stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        yield stderr
    except SettingsInvalid as error:
        stderr.print(str(error), markup=False)
        raise typer.Exit(1) from None


def _shown(limits: Limits) -> str:
    parts = []
    if limits.requests_per_s is not None:
        at_once = "" if limits.burst is None else f", {limits.burst} at once"
        parts.append(f"{limits.requests_per_s:g} requests/s{at_once}")
    if limits.rows_per_s is not None:
        parts.append(f"{limits.rows_per_s:g} rows/s")
    return "; ".join(parts) or "none"
