"""`espalier train`: the three stages, one by one or all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.stores import refused

app = typer.Typer(help="Train a backbone, its domains' adapters and their fusion.", no_args_is_help=True)

Config = Annotated[Path, typer.Option("--config", help="YAML training configuration.", dir_okay=False)]
Out = Annotated[Path, typer.Option("--out", help="The run folder.", file_okay=False)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where a run in this folder stopped.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Replaces the configuration's seed.", min=0)]
Data = Annotated[
    Path | None, typer.Option("--data", help="Prepared data; replaces the configuration's.", file_okay=False)
]


@app.command()
def pretrain(config: Config, out: Out, resume: Resume = False, seed: Seed = None, data: Data = None) -> None:
    """Train the backbone on all rows (stage 1)."""
    _train("pretrain", config, out, resume, seed, data)


@app.command()
def adapters(config: Config, out: Out, resume: Resume = False, seed: Seed = None, data: Data = None) -> None:
    """Train every domain's adapter; the run folder must hold a backbone (stage 2)."""
    _train("adapters", config, out, resume, seed, data)


@app.command()
def fuse(config: Config, out: Out, resume: Resume = False, seed: Seed = None, data: Data = None) -> None:
    """Train the fusion, then export, evaluate and report; the run folder must hold adapters (stage 3)."""
    _train("fuse", config, out, resume, seed, data)


@app.command(name="all")
def every(config: Config, out: Out, resume: Resume = False, seed: Seed = None, data: Data = None) -> None:
    """Train all three stages, then export, evaluate and report."""
    _train("all", config, out, resume, seed, data)


def _train(stage: str, config: Path, out: Path, resume: bool, seed: int | None, data: Path | None) -> None:
    # Torch's threads spin while they wait for each other. Where another program holds a core, the default spin made a
    # step 30 times as long; a short one costs nothing on an idle machine. Read once, when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from adapters_store.errors import StoreError
    from training.config import load_config
    from training.errors import TrainingError
    from training.pipeline import train
    from training.progress import RichMeter

    console = Console()
    try:
        settings = load_config(config, seed=seed, data=data)
        train(stage, settings, out, resume=resume, meter=RichMeter(console))
    except (TrainingError, StoreError) as error:
        raise refused(error) from error
    except KeyboardInterrupt:
        console.print(f"stopped; --resume goes on with {out}", highlight=False, markup=False)
        raise typer.Exit(130) from None
