"""What the commands of `espalier train` share: options, and how a training ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from typer import Context
from typer.core import TyperCommand

from cli.stores import refused

Config = Annotated[Path, typer.Option("--config", help="YAML training configuration.", dir_okay=False)]
Out = Annotated[Path, typer.Option("--out", help="The run folder.", file_okay=False)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where a run in this folder stopped.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Replaces the configuration's seed.", min=0)]
Data = Annotated[
    Path | None, typer.Option("--data", help="Prepared data; replaces the configuration's.", file_okay=False)
]


class MayLackAddress(TyperCommand):
    """Lets `--ray` stand without its value, which is then `local`."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:  # type: ignore[override]  # typer's base is private
        """Fill in the address where the next word is an option, or nothing."""
        return super().parse_args(ctx, with_address(args))


def with_address(args: Sequence[str]) -> list[str]:
    """Fill in `local` behind a `--ray` that an option follows, or nothing."""
    filled: list[str] = []
    for word, following in pairwise([*args, "--"]):
        filled += [word, "local"] if word == "--ray" and following.startswith("-") else [word]
    return filled


def address_of(ray: str) -> str | None:
    """The address that `--ray` names; None where a cluster is to be started here."""
    return None if ray == "local" else ray


def run_training(out: Path, work: Callable[[Console], None]) -> None:
    """Let `work` train; what it refuses ends the command with its message, and Ctrl-C with how to go on."""
    # Torch's threads spin while they wait for each other. Where another program holds a core, the default spin made a
    # step 30 times as long; a short one costs nothing on an idle machine. Read once, when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from adapters_store.errors import StoreError
    from network.errors import NetworkError
    from service.errors import ServiceError
    from training.errors import TrainingError

    console = Console()
    try:
        work(console)
    except (TrainingError, StoreError, NetworkError, ServiceError) as error:
        raise refused(error) from error
    except KeyboardInterrupt:
        console.print(f"stopped; --resume goes on with {out}", highlight=False, markup=False)
        raise typer.Exit(130) from None
