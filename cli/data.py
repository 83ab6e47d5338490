"""`espalier data`: write a prepared data folder from a source, from a benchmark's public files, or from feedback."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cli.prepare import Out, summary
from cli.prepare import app as prepare
from cli.stores import refused

if TYPE_CHECKING:
    from training.builders.sets import SetName
    from training.feedback import Tally

app = typer.Typer(help="Prepare data for training.", no_args_is_help=True)
app.add_typer(prepare, name="prepare")


@app.command()
def build(
    name: Annotated[str, typer.Argument(help="amazon-6, amazon-13, taobao-10, taobao-20, taobao-30 or epinions-mdr.")],
    source: Annotated[Path, typer.Option("--source", help="Folder with the public files, or the authors' archive.")],
    out: Out,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides which negatives are drawn, and the split.")] = 0,
    processes: Annotated[int, typer.Option("--processes", min=1, help="The result is the same with any number.")] = 1,
    any_size: Annotated[bool, typer.Option("--any-size", help="Accept other counts than the published ones.")] = False,
    vectors: Annotated[
        bool, typer.Option("--vectors", help="Taobao: users and items bring the vectors of its files, never trained.")
    ] = False,
) -> None:
    """Build a public multi-domain benchmark by the rules of its paper, with its split (docs/benchmark-sets.md)."""
    from training.builders.assembly import BuildOptions
    from training.builders.sets import build_set
    from training.errors import TrainingError
    from training.progress import RichMeter

    console = Console()
    chosen = _set_name(name)
    try:
        with console.status(f"building {chosen}"):
            prepared = build_set(chosen, source, BuildOptions(seed, processes, any_size, vectors), RichMeter(console))
            prepared.write(out)
    except TrainingError as error:
        raise refused(error) from error
    console.print(summary(prepared.spec))
    parts = ", ".join(f"{rows:,} {part}" for part, rows in prepared.spec.facts["parts"].items())
    console.print(f"{parts}; written to {out}", soft_wrap=True, markup=False)


def _set_name(name: str) -> SetName:
    from training.builders.sets import SetName

    try:
        return SetName(name)
    except ValueError:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(SetName)}", param_hint="NAME") from None


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Such as movielens-1m; a set that must be got by hand says where.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.", file_okay=False)],
) -> None:
    """Download public files where their owner lets a program do so, check their digest, and unpack them."""
    import httpx
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from training.errors import TrainingError
    from training.sources.fetching import fetch

    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        with (
            httpx.Client(follow_redirects=True, timeout=60) as client,
            Progress(*columns, console=console, transient=True) as progress,
        ):
            task = progress.add_task(name, total=None)
            found = fetch(name, out, client, lambda have, total: progress.update(task, completed=have, total=total))
    except TrainingError as error:
        raise refused(error) from error
    console.print(f"in {found}", soft_wrap=True, markup=False)


@app.command(name="from-feedback")
def from_feedback(
    source: Annotated[
        str, typer.Argument(help="Folder of segments, or the URL of the object store that they were shipped to.")
    ],
    prepared: Annotated[
        Path, typer.Option("--prepared", help="Prepared folder that knows the users and items.", file_okay=False)
    ],
    out: Out,
    append: Annotated[bool, typer.Option("--append", help="Behind the prepared folder's own rows.")] = False,
) -> None:
    """Turn feedback segments into training rows: the last label of each shown item."""
    from adapters_store.errors import StoreError
    from cli.segments import read_segments
    from training.errors import TrainingError
    from training.feedback import FeedbackReader, context_fields, feedback_rows, write_report
    from training.prepared import PreparedDataset

    console = Console()
    try:
        if out.resolve() == prepared.resolve():
            raise typer.BadParameter("name another folder than --prepared", param_hint="--out")
        base = PreparedDataset.load(prepared)
        reader = FeedbackReader(context_fields(base))
        with console.status("reading segments"):
            read_segments(source, reader.add)
            rows = feedback_rows(reader, base, append=append)
            rows.write(out)
        write_report(reader.tally, out)
    except (TrainingError, StoreError) as error:
        raise refused(error, source) from error
    console.print(summary(rows.spec))
    _tell(console, reader.tally)
    console.print(f"written to {out}", soft_wrap=True, markup=False)


def _tell(console: Console, tally: Tally) -> None:
    rejected = sum(tally.rejected.values())
    console.print(
        f"{tally.rows:,} rows from {tally.lines:,} lines in {tally.segments:,} segments", soft_wrap=True, markup=False
    )
    console.print(
        f"{tally.duplicates:,} duplicates, {tally.relabelled:,} changed labels, {rejected:,} rejected lines, "
        f"{tally.completing:,} completing lines, {tally.torn:,} torn ends",
        soft_wrap=True,
        markup=False,
    )
    for reason, count in tally.rejected.most_common():
        first = next((one for one in tally.named if one.reason == reason), None)
        where = "" if first is None else f", first {first.segment} line {first.line}"
        console.print(f"rejected {count:,}: {reason}{where}", soft_wrap=True, markup=False)
