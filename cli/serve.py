"""`espalier serve`: one serving process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from service.server import Started

# every option may also stand in the settings file or in a variable, so none has a default of its own here
Store = Annotated[str | None, typer.Option(help="URL of the adapter store: file:///folder (or ESPALIER_STORE).")]
Host = Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default, any other needs tokens.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 8000, and 0 takes a free one.", min=0, max=65535)]
Tokens = Annotated[Path | None, typer.Option(help="File of bearer tokens, made by `espalier token new`.")]
Config = Annotated[Path | None, typer.Option(help="YAML file of settings; ESPALIER_ variables and options go first.")]


def serve(
    store: Store = None, host: Host = None, port: Port = None, tokens: Tokens = None, config: Config = None
) -> None:
    """Serve scores and take adapters over HTTP until Ctrl-C."""
    from adapters_store.errors import StoreError
    from service.errors import ServiceError
    from service.logs import open_log
    from service.server import run
    from service.settings import load_settings

    console = Console(highlight=False, soft_wrap=True)
    try:
        settings = load_settings({"store": store, "host": host, "port": port, "tokens": tokens}, config)
        log = open_log(settings.log_level)
        run(settings, log=log, announce=lambda started: announce(console, started, settings.shown_store))
    except (ServiceError, StoreError) as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(str(error), style="red", markup=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        # Ctrl-C before the server listened: there was nothing to finish
        raise typer.Exit(0) from None


def announce(console: Console, started: Started, store: str) -> None:
    """Say where the server listens and what it scores with."""
    console.print(f"Espalier scores on [bold]{started.url}[/bold]  (docs: {started.url}/docs, Ctrl-C stops)")
    console.print(f"backbone {started.backbone[:12]}, {started.domains} domains in {store}")
    if started.scoring_open:
        console.print(
            "[dim]No token is configured: scoring is open on this machine, publishing is closed (--tokens)[/dim]"
        )
