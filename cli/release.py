"""`espalier release`: move many domains to new revisions at once, after the replicas have prepared them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from adapters_store.errors import BlobMissing, MalformedArtifact, NotStaged, StoreUnavailable
from adapters_store.records import ReleasePointer, ReplicaReport, StagedRelease
from adapters_store.releases import Release, parse_release
from adapters_store.store import AdapterStore
from cli.audit import audited, author
from cli.printing import AsJson, print_json
from cli.stores import StoreUrl, with_store
from service.logs import Action

app = typer.Typer(
    help="Move many domains to new revisions at once, after the replicas have prepared them.", no_args_is_help=True
)

COMMAND = "espalier release"
POLL_S = 0.5
FORM = '{"divisions": {division: {domain: revision}}}'
_SHOWN = 5

ReleaseArgument = Annotated[str | None, typer.Argument(help="Revision of the release.")]
MinStaged = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Share of the release that every replica must have prepared.")
]


@app.command()
def stage(
    store: StoreUrl,
    release: ReleaseArgument = None,
    file: Annotated[
        Path | None,
        typer.Option(help=f"JSON {FORM} of revisions that the store has."),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Stage nothing any longer.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make every replica fetch and prepare a release; nothing is scored by it yet."""
    if (release is not None) + (file is not None) + clear != 1:
        raise typer.BadParameter("name one of: a RELEASE that is stored, --file with a new one, or --clear")

    by = author(COMMAND)

    async def work(opened: AdapterStore) -> StagedRelease:
        with audited("stage_release", by, store, revision=release) as entry:
            before = await opened.staged()
            staged = await opened.stage(await chosen(opened), by)
            entry.moved(before.release, staged.release)
            entry.done(
                "unchanged" if before == staged else "changed", revision=staged.release, generation=staged.generation
            )
        return staged

    async def chosen(opened: AdapterStore) -> str | None:
        if file is not None:
            return await put_release(opened, read_release(file))
        if release is not None:
            await require_blobs(opened, await opened.release(release))
        return release

    staged = with_store(store, work)
    if as_json:
        print_json(staged.model_dump(mode="json"))
    elif staged.release is None:
        typer.echo("nothing is staged now")
    else:
        typer.echo(f"staged {staged.release}")
        typer.echo("see how far the replicas are: espalier release show")


@app.command()
def flip(
    store: StoreUrl,
    release: Annotated[str | None, typer.Argument(help="Revision of the release; the staged one if absent.")] = None,
    min_staged: MinStaged = 0.99,
    wait: Annotated[float, typer.Option(min=0.0, help="Longest wait for the replicas to prepare it, in s.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Make a staged release live for all its domains, by one write; refused while a replica has not prepared it."""

    by = author(COMMAND)

    async def work(opened: AdapterStore) -> ReleasePointer:
        chosen = release or (await opened.staged()).release
        if chosen is None:
            raise NotStaged("no release is staged: `espalier release stage` comes first")
        give_up = time.monotonic() + wait
        while True:
            try:
                return await opened.flip(chosen, by, min_staged)
            except NotStaged:
                if time.monotonic() >= give_up:
                    raise
            await asyncio.sleep(POLL_S)

    _report(with_store(store, lambda opened: _moved(opened, store, "flip_release", by, release, work)), as_json)


@app.command()
def rollback(
    store: StoreUrl,
    from_: Annotated[str, typer.Option("--from", help="Revision of the release that is to go.")],
    as_json: AsJson = False,
) -> None:
    """Go back to the release before; domains published since keep what they were given."""
    by = author(COMMAND)

    def work(opened: AdapterStore) -> Awaitable[ReleasePointer]:
        return opened.roll_back_release(from_, by)

    _report(with_store(store, lambda opened: _moved(opened, store, "rollback_release", by, from_, work)), as_json)


async def _moved(
    opened: AdapterStore,
    url: str,
    action: Action,
    by: str,
    revision: str | None,
    work: Callable[[AdapterStore], Awaitable[ReleasePointer]],
) -> ReleasePointer:
    """Move the pointer, and audit it."""
    with audited(action, by, url, revision=revision) as entry:
        before = await opened.pointer()
        after = await work(opened)
        entry.moved(before.release, after.release)
        unchanged = before.generation == after.generation
        named = revision or after.release
        entry.done("unchanged" if unchanged else "changed", revision=named, generation=after.generation)
    return after


@app.command()
def show(store: StoreUrl, as_json: AsJson = False) -> None:
    """Show the release that is live, the staged one, and how far each replica is with it."""

    async def read(opened: AdapterStore) -> tuple[ReleasePointer, StagedRelease, Sequence[ReplicaReport]]:
        return await opened.pointer(), await opened.staged(), await opened.replica_reports()

    pointer, staged, reports = with_store(store, read)
    if as_json:
        print_json(
            {
                "pointer": pointer.model_dump(mode="json"),
                "staged": staged.model_dump(mode="json"),
                "replicas": [report.model_dump(mode="json") for report in reports],
            }
        )
        return
    _print_pointer(pointer)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"staged: {staged.release or 'nothing'}", markup=False)
    if reports:
        table = Table("replica", "release", "prepared", "of", "updated", show_edge=False)
        for report in reports:
            shown = (report.release or "-")[:12]
            table.add_row(report.replica, shown, str(report.staged), str(report.of), report.updated_at)
        console.print(table)


def read_release(file: Path) -> Release:
    """Read a release from a file.

    Raises:
        StoreUnavailable: the file cannot be read.
        MalformedArtifact: it holds no release.
    """
    try:
        return parse_release(file.read_bytes())
    except OSError as error:
        raise StoreUnavailable(f"{file.name} cannot be read: {error.strerror}") from error
    except MalformedArtifact as error:
        raise MalformedArtifact(f"{file.name} must be JSON {FORM}: {error}") from error


async def put_release(store: AdapterStore, release: Release) -> str:
    """Store a release all of whose adapters are stored; its revision.

    Raises:
        BlobMissing: the store lacks one of them.
    """
    await require_blobs(store, release)
    return await store.put_release(release)


async def require_blobs(store: AdapterStore, release: Release) -> None:
    """Refuse a release that no replica could prepare.

    Raises:
        BlobMissing: the store lacks an adapter of it.
    """
    there = await store.has_many(sorted(release.revisions()))
    missing = sorted(domain for domain in release.domains() if release.revision_of(domain) not in there)
    if missing:
        first = ", ".join(missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise BlobMissing(f"{len(missing)} adapters of the release are not stored: {first}{more}; publish them first")


def _report(pointer: ReleasePointer, as_json: bool) -> None:
    if as_json:
        print_json(pointer.model_dump(mode="json"))
    else:
        _print_pointer(pointer)


def _print_pointer(pointer: ReleasePointer) -> None:
    console = Console(highlight=False, soft_wrap=True)
    shown = pointer.release or "none: every domain is scored by its own record"
    console.print(f"live release: {shown}", markup=False)
    console.print(f"generation {pointer.generation}, live since {pointer.since}", markup=False)
    if pointer.parent is not None:
        console.print(f"rolling back leads to: {pointer.parent.release or 'no release'}", markup=False)
