"""What the subcommands that work on a store share: the option, opening and closing, how a refusal is shown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from stamina.instrumentation import get_on_retry_hooks, set_on_retry_hooks

from adapters_store.errors import BadId, StoreError
from adapters_store.store import AdapterStore
from adapters_store.urls import open_backend
from service.redaction import without_secrets

T = TypeVar("T")

SCHEMES = "file:///absolute/folder, redis://, rediss://, redis+sentinel://, redis+cluster://, s3://, gs://, az:// or \
redis+s3:// (docs/store.md has their options)"
StoreUrl = Annotated[
    str,
    # shown as a variable's name only: its value may hold a password
    typer.Option("--store", envvar="ESPALIER_STORE", help=f"URL of the adapter store: {SCHEMES}.", show_default=False),
]


def with_store(
    url: str, work: Callable[[AdapterStore], Awaitable[T]], create: bool = False, *, cached: bool = True
) -> T:
    """Run `work` on the store of a URL; an error of the store ends the command with its message and status 1.

    The message is shown without the URL's secrets, whatever a library put into it.

    Args:
        url: Of the store.
        work: What to do.
        create: Make a store that is not there yet.
        cached: Whether a cache that the URL names is used.

    Returns:
        What `work` returned.
    """

    async def run() -> T:
        store = open_store(url, create, cached=cached)
        try:
            return await work(store)
        finally:
            await store.close()

    return completed(run(), url)


def completed(work: Coroutine[Any, Any, T], *urls: str) -> T:
    """Run work on stores to its end; a StoreError ends the command with its message and status 1.

    Args:
        work: what to do.
        urls: of the stores; their secrets are not shown.
    """
    hooks = get_on_retry_hooks()
    # stamina would print its warnings to stdout, into what a program reads; a failure for good is told below
    set_on_retry_hooks([])
    try:
        return asyncio.run(work)
    except StoreError as error:
        raise refused(error, *urls) from error
    finally:
        set_on_retry_hooks(hooks)


def open_store(url: str, create: bool = False, *, cached: bool = True) -> AdapterStore:
    """Open the store of a URL; the caller closes it. Arguments as `with_store`.

    Raises:
        BadId: the URL names no store that outlives this process.
        StoreUnavailable: it is not there.
    """
    if url.startswith("memory:"):
        raise BadId("memory:// lives in one process, and this one ends: name a store like file:///absolute/folder")
    return AdapterStore(open_backend(url, create, cached=cached), time.time)


def refused(error: Exception, *urls: str) -> typer.Exit:
    """Print an error for a person; the caller raises what this returns.

    Args:
        error: what went wrong.
        urls: store URLs that took part, whose secrets are not shown.
    """
    message = str(error)
    for url in urls:
        message = without_secrets(message, url)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("[red]error:[/red]", end=" ")
    console.print(message, markup=False)
    return typer.Exit(1)
