"""`espalier store`: check a store, copy it to another one, collect what nobody names any longer."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from adapters_store.checking import CheckReport, check_store
from adapters_store.copying import Copied, copy_store
from adapters_store.garbage import MIN_GRACE_S, Collected, collect
from adapters_store.store import AdapterStore
from cli.audit import audited, author
from cli.printing import AsJson, print_json
from cli.progress import steps
from cli.stores import StoreUrl, completed, open_store, with_store
from service.redaction import redacted

app = typer.Typer(help="Check a store, copy it, collect its garbage.", no_args_is_help=True)

COMMAND = "espalier store"
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_TIME = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


@app.command()
def check(store: StoreUrl, as_json: AsJson = False) -> None:
    """Look at every digest and every record; ends with status 1 when something is wrong. Writes nothing."""
    with steps(Console(stderr=True), shown=not as_json) as on_step:
        # a copy in a cache would be looked at in the place of what the store has, and be written there besides
        report = with_store(store, lambda opened: check_store(opened, on_step), cached=False)
    if as_json:
        print_json({**asdict(report), "sound": report.sound})
    else:
        _say_checked(report)
    if not report.sound:
        raise typer.Exit(1)


@app.command()
def copy(
    source: Annotated[str, typer.Argument(help="URL of the store to copy from.", metavar="SRC", show_default=False)],
    destination: Annotated[str, typer.Argument(help="URL of the store to copy to.", metavar="DST", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Copy all blobs and records to another store, which may be of another kind.

    What is there already is skipped: a copy that was cut off goes on, and a second one brings what changed since.
    """

    named = {"source": redacted(source), "destination": redacted(destination)}

    async def work() -> Copied:
        with steps(Console(stderr=True), shown=not as_json) as on_step:
            async with AsyncExitStack() as stack:
                opened = open_store(source)
                stack.push_async_callback(opened.close)
                target = open_store(destination, create=True)
                stack.push_async_callback(target.close)
                with audited("copy_store", author(COMMAND), source, destination, **named) as entry:
                    done = await copy_store(opened, target, on_step)
                    entry.done("changed", blobs=done.blobs, records=done.records)
                return done

    copied = completed(work(), source, destination)
    if as_json:
        print_json(asdict(copied))
    else:
        _say_copied(copied)
    if copied.damaged:
        raise typer.Exit(1)


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

    async def work(opened: AdapterStore) -> Collected:
        if not delete:  # nothing changes
            return await collect(opened, grace_s, True, on_step)
        with audited("collect_garbage", author(COMMAND), store, grace_s=grace_s) as entry:
            done = await collect(opened, grace_s, False, on_step)
            entry.done("changed", condemned=done.condemned, deleted=done.deleted, deleted_bytes=done.deleted_bytes)
        return done

    with steps(Console(stderr=True), shown=not as_json) as on_step:
        collected = with_store(store, work)
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


def _say_checked(report: CheckReport) -> None:
    console = Console(highlight=False, soft_wrap=True)
    size = f"{report.blob_bytes / 2**20:,.1f} MiB"
    console.print(f"{report.blobs:,} blobs ({size}) and {report.records:,} records were looked at")
    if report.unknown_records:
        console.print(f"{report.unknown_records:,} records are of a kind that this build does not know")
    for fault in report.faults:
        console.print(f"{fault.key}: {fault.what}; {fault.advice}", markup=False, style="red")
    if report.more_faults:
        console.print(f"and {report.more_faults:,} faults more", style="red")
    if report.sound:
        console.print("nothing is wrong")


def _say_copied(copied: Copied) -> None:
    console = Console(highlight=False, soft_wrap=True)
    size = f"{copied.blob_bytes / 2**20:,.1f} MiB"
    console.print(f"blobs: {copied.blobs:,} copied ({size}), {copied.blobs_there:,} were there already")
    console.print(f"records: {copied.records:,} copied, {copied.records_there:,} were there already")
    for revision in copied.damaged:
        console.print(f"blob {revision} is damaged in the source and was left out: no record names it", style="red")


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
