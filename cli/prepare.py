"""`espalier data prepare`: write a prepared data folder from public files, or draw one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from cli.stores import refused

if TYPE_CHECKING:
    from training.prepared import DatasetSpec, PreparedDataset

app = typer.Typer(help="Write a prepared data folder from a source.", no_args_is_help=True)

Out = Annotated[Path, typer.Option("--out", help="The prepared folder to write.", file_okay=False)]
Source = Annotated[Path, typer.Option("--source", help="Folder with the public files.", file_okay=False)]
AnySize = Annotated[bool, typer.Option("--any-size", help="Accept other counts than those of the public files.")]

Split = Literal["time", "random"]


@app.command()
def synthetic(
    out: Out,
    seed: Annotated[int, typer.Option(min=0, help="Decides everything that is drawn.")] = 0,
    rows: Annotated[
        int, typer.Option(min=1000, help="Shown items, over all domains; at least 3,000 a domain: 36,000 for 12.")
    ] = 400_000,
    users: Annotated[int, typer.Option(min=10, help="Users that items are shown to.")] = 1_000,
    items: Annotated[int, typer.Option(min=10, help="Items that are shown.")] = 300,
    domains: Annotated[int, typer.Option(min=1, help="Natural domains; the last ones are sparse.")] = 12,
    segments: Annotated[int, typer.Option(min=1, max=26, help="Domains of the auxiliary division.")] = 8,
) -> None:
    """Draw a world with planted domains, whose best reachable AUC is known."""

    def source() -> PreparedDataset:
        from training.sources.synthetic import SyntheticWorld, synthetic

        return synthetic(SyntheticWorld(seed, rows, users, items, domains, segments))

    _prepare(source, out)


@app.command()
def conflict(
    out: Out,
    seed: Annotated[int, typer.Option(min=0, help="Decides everything that is drawn.")] = 0,
    rows: Annotated[
        int, typer.Option(min=200, help="Shown items, over all domains; at least 25,000 for 10 domains.")
    ] = 60_000,
    users: Annotated[int, typer.Option(min=10, help="Users that items are shown to.")] = 800,
    items: Annotated[int, typer.Option(min=10, help="Items that are shown.")] = 300,
    domains: Annotated[int, typer.Option(min=2, help="Natural domains; the last three tenths are sparse.")] = 10,
    conflict: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the logit's variance in which domains differ.")
    ] = 0.6,
    directions: Annotated[
        int, typer.Option(min=1, help="Components in which they differ: 1 is two camps; else even, below --domains.")
    ] = 2,
) -> None:
    """Draw a world whose domains contradict each other by construction, split 60/20/20."""

    def source() -> PreparedDataset:
        from training.sources.conflict import ConflictWorld, conflicting

        return conflicting(ConflictWorld(seed, rows, users, items, domains, conflict, directions))

    _prepare(source, out)


@app.command(name="movielens-1m")
def movielens_1m(
    source: Source,
    out: Out,
    any_size: AnySize = False,
) -> None:
    """Read MovieLens-1M: three age domains, gender as the auxiliary division."""

    def read() -> PreparedDataset:
        from training.sources.movielens import movielens_1m

        return movielens_1m(source, any_size=any_size)

    _prepare(read, out)


@app.command(name="epinions-rating")
def epinions_rating(
    source: Annotated[Path, typer.Option("--source", help="Folder with epinions.parquet, or the file.")],
    out: Out,
    any_size: AnySize = False,
) -> None:
    """Read Epinions: a category is a domain, a rating above 3 is liked, user activity the auxiliary division."""

    def read() -> PreparedDataset:
        from training.sources.epinions import epinions_rating

        return epinions_rating(source, any_size=any_size)

    _prepare(read, out)


@app.command(name="amazon-5core")
def amazon_5core(
    source: Source,
    out: Out,
    split: Annotated[
        Split, typer.Option("--split", help="By time as the paper has it, or 8:1:1 at random.")
    ] = "random",
    any_size: AnySize = False,
) -> None:
    """Read Amazon 5-core of 2014: Clothing, Beauty and Health are domains, more than 3 stars is liked."""

    def read() -> PreparedDataset:
        from training.sources.amazon_5core import amazon_5core

        return amazon_5core(source, split=split, any_size=any_size)

    _prepare(read, out)


@app.command()
def douban(source: Source, out: Out, any_size: AnySize = False) -> None:
    """Read Douban: books, music and movies are domains, a rating above 3 is liked."""

    def read() -> PreparedDataset:
        from training.sources.douban import douban

        return douban(source, any_size=any_size)

    _prepare(read, out)


@app.command(name="kuairand-1k")
def kuairand_1k(source: Source, out: Out, any_size: AnySize = False) -> None:
    """Read KuaiRand-1K: five tabs are domains, a click is the label."""

    def read() -> PreparedDataset:
        from training.sources.kuairand import kuairand_1k

        return kuairand_1k(source, any_size=any_size)

    _prepare(read, out)


@app.command(name="ali-ccp")
def ali_ccp(
    source: Source,
    out: Out,
    seed: Annotated[int, typer.Option(min=0, help="Decides which half of the test file validates.")] = 0,
    any_size: AnySize = False,
) -> None:
    """Read Ali-CCP block by block: scenarios are domains, gender the auxiliary division, a click the label."""
    from training.errors import TrainingError
    from training.sources.ali_ccp import ali_ccp

    console = Console()
    try:
        with console.status("preparing"):
            spec = ali_ccp(source, out, seed=seed, any_size=any_size)
    except TrainingError as error:
        raise refused(error) from error
    console.print(summary(spec))
    console.print(f"written to {out}", soft_wrap=True, markup=False)


def _prepare(source: Callable[[], PreparedDataset], out: Path) -> None:
    from training.errors import TrainingError

    console = Console()
    try:
        with console.status("preparing"):
            prepared = source()
            prepared.write(out)
    except TrainingError as error:
        raise refused(error) from error
    console.print(summary(prepared.spec))
    bayes = prepared.spec.facts.get("bayes_auc")
    if bayes is not None:
        console.print(f"AUC of the true probabilities, which no model can beat: {bayes:.4f}")
    console.print(f"written to {out}", soft_wrap=True, markup=False)


def summary(spec: DatasetSpec) -> Table:
    """Rows, users, items and share of positives by domain."""
    table = Table(title=f"{spec.name}: {spec.facts['rows']:,} rows")
    table.add_column("domain")
    for name in ("rows", "users", "items", "positive"):
        table.add_column(name, justify="right")
    for domain in spec.facts["domains"]:
        counts = (f"{domain[name]:,}" for name in ("rows", "users", "items"))
        table.add_row(domain["domain_id"], *counts, f"{domain['positive']:.2%}")
    return table
