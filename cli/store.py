"""`espalier store`: collect what nobody names any longer."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from adapters_store.garbage import MIN_GRACE_S, Collected, collect
from cli.progress import steps
from cli.stores import AsJson, StoreUrl, print_json, with_store

app = typer.Typer(help="Collect a store's garbage.", no_args_is_help=True)

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_TIME = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


@app.callback()
def store_() -> None:
    """Check a store, copy it, collect its garbage."""


@app.command()
def gc(
    store: StoreUrl,
    delete: Annotated[bool, typer.Option("--delete", help="Do it; without it nothing changes.")] = False,
    grace: Annotated[
        str, typer.Option(help="Between condemning and deleting, such as 12h or 7d; ten minutes at least.")
    ] = "7d",
    as_json: AsJson = False,
) -> None:
    """Condemn what nobody names any longer, and delete what was condemned longer ago than the grace period."""
    grace_s = seconds_of(grace)
    if grace_s < MIN_GRACE_S:
        raise typer.BadParameter(f"a grace period is {MIN_GRACE_S / 60:g} minutes at least, not {grace}")
    with steps(Console(stderr=True), shown=not as_json) as on_step:
        collected = with_store(store, lambda opened: collect(opened, grace_s, not delete, on_step))
    if as_json:
        print_json(asdict(collected))
    else:
        _say_collected(collected, grace)


def seconds_of(text: str) -> float:
    """Seconds of a time such as 90s, 12h or 7d.

    Raises:
        typer.BadParameter: it is none.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no time: write a number and one of s, m, h, d, w, for example 7d")
    return float(found[1]) * SECONDS[found[2]]


def _say_collected(collected: Collected, grace: str) -> None:
    console = Console(highlight=False, soft_wrap=True)
    would = "would be " if collected.dry_run else ""
    size = f"{collected.deleted_bytes / 2**20:,.1f} MiB"
    console.print(f"{collected.blobs:,} blobs, {collected.kept:,} of them needed")
    console.print(f"{would}condemned: {collected.condemned:,}, to be deleted by a run at least {grace} later")
    console.print(f"condemned before, still in their grace period: {collected.waiting:,}")
    console.print(f"{would}deleted: {collected.deleted:,} ({size})")
    if collected.spared:
        console.print(f"{would}spared, because they are named again or gone: {collected.spared:,}")
    if collected.dry_run:
        console.print("nothing was changed: add --delete to do it")
