"""`espalier train`: the three stages, one by one or all; and MAMDR."""

from __future__ import annotations

import os
from collections.abc import Callable
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


@app.command()
def mamdr(
    config: Config,
    out: Out,
    resume: Resume = False,
    seed: Seed = None,
    data: Data = None,
    framework: Annotated[
        str | None, typer.Option("--framework", help="How it learns; replaces the configuration's.")
    ] = None,
    specific: Annotated[
        str | None, typer.Option("--specific", help="What a domain has of its own: delta or lora.")
    ] = None,
    domain: Annotated[
        str | None, typer.Option("--domain", help="Add this domain alone to the finished run in --out.")
    ] = None,
) -> None:
    """Train MAMDR, or a framework that it is compared with; then evaluate, export and report."""

    def work(console: Console) -> None:
        from training.config import read_config
        from training.frameworks.config import MamdrConfig
        from training.frameworks.run import train_mamdr
        from training.progress import RichMeter

        settings = read_config(config, MamdrConfig, seed=seed, data=data, framework=framework, specific=specific)
        train_mamdr(settings, out, resume=resume, meter=RichMeter(console), domain=domain)

    _run(out, work)


def _train(stage: str, config: Path, out: Path, resume: bool, seed: int | None, data: Path | None) -> None:
    def work(console: Console) -> None:
        from training.config import load_config
        from training.pipeline import train
        from training.progress import RichMeter

        settings = load_config(config, seed=seed, data=data)
        train(stage, settings, out, resume=resume, meter=RichMeter(console))

    _run(out, work)


def _run(out: Path, work: Callable[[Console], None]) -> None:
    # Torch's threads spin while they wait for each other. Where another program holds a core, the default spin made a
    # step 30 times as long; a short one costs nothing on an idle machine. Read once, when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from adapters_store.errors import StoreError
    from network.errors import NetworkError
    from training.errors import TrainingError

    console = Console()
    try:
        work(console)
    except (TrainingError, StoreError, NetworkError) as error:
        raise refused(error) from error
    except KeyboardInterrupt:
        console.print(f"stopped; --resume goes on with {out}", highlight=False, markup=False)
        raise typer.Exit(130) from None
