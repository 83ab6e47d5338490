"""`espalier serve`: one serving process, or several on one socket."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from service.server import Started
    from service.settings import Settings

# every option may also stand in the settings file or in a variable, so none has a default of its own here
Store = Annotated[str | None, typer.Option(help="URL of the adapter store: file:///folder (or ESPALIER_STORE).")]
Host = Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default, any other needs tokens.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 8000, and 0 takes a free one.", min=0, max=65535)]
Workers = Annotated[int | None, typer.Option(help="Serving processes on one socket; 1 by default.", min=1, max=64)]
EngineCpus = Annotated[
    str | None,
    typer.Option(help="Cores of the engine's threads, such as 2-5,8: one for each of workers x engine_threads."),
]
Tokens = Annotated[Path | None, typer.Option(help="File of bearer tokens, made by `espalier token new`.")]
Config = Annotated[Path | None, typer.Option(help="YAML file of settings; ESPALIER_ variables and options go first.")]


def serve(
    store: Store = None,
    host: Host = None,
    port: Port = None,
    workers: Workers = None,
    engine_cpus: EngineCpus = None,
    tokens: Tokens = None,
    config: Config = None,
) -> None:
    """Serve scores and take adapters over HTTP until Ctrl-C."""
    # numpy would start a thread on each core at its import, in every worker: they spin beside the engine's when an
    # adapter is folded, not at the folding thread's low priority but at the process's own, and on nobody's account
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from adapters_store.errors import StoreError
    from service.errors import ServiceError
    from service.logs import Lasting
    from service.settings import load_settings

    console = Console(highlight=False, soft_wrap=True)
    try:
        options = {
            "store": store,
            "host": host,
            "port": port,
            "workers": workers,
            "engine_cpus": engine_cpus,
            "tokens": tokens,
        }
        settings = load_settings(options, config)
        run = runner_of(settings)

        def told(started: Started) -> None:
            try:
                announce(console, started, settings.shown_store)
            except OSError:  # the terminal is closed already
                Lasting(sys.stdout).let_go()

        run(settings, config=config, announce=told)
    except (ServiceError, StoreError) as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(str(error), style="red", markup=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        # Ctrl-C before the server listened: there was nothing to finish
        raise typer.Exit(0) from None


def runner_of(settings: Settings) -> Callable[..., None]:
    """What runs the service: one process needs no supervisor."""
    if settings.workers > 1:
        from service.workers import run
    else:
        from service.server import run
    return run


def announce(console: Console, started: Started, store: str) -> None:
    """Say where the server listens and what it scores with."""
    admin = started.admin_url or started.url
    console.print(f"Espalier scores on [bold]{started.url}[/bold]  (docs: {admin}/docs, Ctrl-C stops)")
    if started.admin_url is not None:
        console.print(f"publishing, reading and metrics on [bold]{started.admin_url}[/bold]")
    shared = f", {started.workers} workers" if started.workers > 1 else ""
    if started.domains is None:
        console.print(f"backbone {started.backbone[:12]} from the disk cache: {store} does not answer{shared}")
    else:
        console.print(f"backbone {started.backbone[:12]}, {started.domains} domains in {store}{shared}")
    if started.scoring_open:
        console.print(
            "[dim]No token is configured: scoring is open on this machine, publishing is closed (--tokens)[/dim]"
        )
