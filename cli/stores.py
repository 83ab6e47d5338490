"""What the subcommands that work on a store share: the option, opening and closing, and how a refusal is shown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from adapters_store.errors import BadId, StoreError
from adapters_store.store import AdapterStore
from adapters_store.urls import open_backend

T = TypeVar("T")

StoreUrl = Annotated[
    str,
    typer.Option("--store", envvar="ESPALIER_STORE", help="URL of the adapter store: file:///absolute/folder."),
]


def with_store(url: str, work: Callable[[AdapterStore], Awaitable[T]], create: bool = False) -> T:
    """Run `work` on the store of a URL; an error of the store ends the command with its message and status 1.

    Args:
        url: Of the store.
        work: What to do.
        create: Make a store that is not there yet.

    Returns:
        What `work` returned.
    """

    async def run() -> T:
        if url.startswith("memory:"):
            raise BadId("memory:// lives in one process, and this one ends: name a store like file:///absolute/folder")
        store = AdapterStore(open_backend(url, create), time.time)
        try:
            return await work(store)
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except StoreError as error:
        raise refused(error) from error


def refused(error: Exception) -> typer.Exit:
    """Print an error for a person; the caller raises what this returns."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("[red]error:[/red]", end=" ")
    console.print(str(error), markup=False)
    return typer.Exit(1)
