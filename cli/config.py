"""`espalier config`: what a server would make of its settings, without starting one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.serve import Config, EngineCpus, Host, Port, Store, Tokens, Workers

app = typer.Typer(help="Look at the settings of `espalier serve`.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="YAML file of settings.")]
Changed = Annotated[bool, typer.Option("--changed", help="Only what is not at its default.")]

# the store is often named by a variable alone, because its URL holds a password; a file without it is no fault
_ANY_STORE = "memory://"


@app.command()
def check(file: File) -> None:
    """Check a settings file, the ESPALIER_ variables beside it, and the files that they name.

    Ends with 1 and says every fault that would stop a server from starting. The store itself is not asked:
    `espalier store check` does that.
    """
    from service.checking import faults_of
    from service.logs import open_log
    from service.refusals import SettingsInvalid
    from service.settings import load_settings
    from service.sources import effective_settings

    try:
        named = {} if _store_named(file) else {"store": _ANY_STORE}
        settings = load_settings(named, file)
        sources = [each.source for each in effective_settings(named, file)]
        faults = faults_of(settings, open_log("error"))
    except SettingsInvalid as error:
        faults = [str(error)]
    if faults:
        _refuse(file, faults)
    console = Console(highlight=False, soft_wrap=True)
    counts = f"{sources.count('file')} settings from the file, {sources.count('variable')} from variables"
    console.print(f"{file} is good: {counts}, the rest at their defaults", markup=False)
    if named:
        console.print("no store is named here: give it as ESPALIER_STORE or --store", style="yellow", markup=False)


@app.command()
def show(
    config: Config = None,
    store: Store = None,
    host: Host = None,
    port: Port = None,
    workers: Workers = None,
    engine_cpus: EngineCpus = None,
    tokens: Tokens = None,
    changed: Changed = False,
) -> None:
    """Show every setting as `espalier serve` with the same options would have it, and where each came from.

    A password in a URL is not shown.
    """
    from service.refusals import SettingsInvalid
    from service.sources import effective_settings

    options = {
        "store": store,
        "host": host,
        "port": port,
        "workers": workers,
        "engine_cpus": engine_cpus,
        "tokens": tokens,
    }
    try:
        settings = effective_settings(options, config)
    except SettingsInvalid as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(str(error), style="red", markup=False)
        raise typer.Exit(1) from None
    table = Table("setting", "value", "from", box=None, pad_edge=False)
    for each in settings:
        if not changed or each.source != "default":
            table.add_row(each.name, each.value, each.source, style=None if each.source != "default" else "dim")
    console = Console(highlight=False, markup=False)
    # a pipe is as wide as its longest line: nothing is wrapped or cut there
    console.print(table, width=console.width if console.is_terminal else 400, no_wrap=True, crop=False)


def _store_named(file: Path) -> bool:
    from pydantic_settings import EnvSettingsSource

    from service.settings import Settings, read_file

    return "store" in read_file(file) or "store" in EnvSettingsSource(Settings)()


def _refuse(file: Path, faults: list[str]) -> None:
    stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    for fault in faults:
        stderr.print(f"{file}: {fault}", style="red", markup=False)
    raise typer.Exit(1)
