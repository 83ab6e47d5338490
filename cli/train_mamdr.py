"""`espalier train mamdr`: MAMDR, the frameworks and networks that it is compared with, alone or on a cluster."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cli.train_options import Config, Data, Out, Resume, Seed, address_of, run_training

if TYPE_CHECKING:
    from training.cluster.config import ClusterConfig


class Mode(StrEnum):
    """When the workers of a cluster wait for each other."""

    SYNC = "sync"
    ASYNC = "async"


class Combine(StrEnum):
    """What becomes of the changes of several workers of a cluster."""

    BOUNDED = "bounded"
    SUM = "sum"
    MEAN = "mean"


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
    ray: Annotated[
        str | None,
        typer.Option("--ray", help="Train on this Ray cluster; without an address, on one that is started here."),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", help="Processes that own domains (--ray).", min=1)] = 2,
    shards: Annotated[int, typer.Option("--shards", help="Processes that hold parameters (--ray).", min=1)] = 1,
    mode: Annotated[Mode, typer.Option("--mode", help="When workers wait for each other (--ray).")] = Mode.SYNC,
    staleness: Annotated[
        int, typer.Option("--staleness", help="Epochs a worker may be ahead of the slowest (--mode async).", min=0)
    ] = 1,
    combine: Annotated[
        Combine, typer.Option("--combine", help="How changes of several workers become one (--mode sync).")
    ] = Combine.BOUNDED,
) -> None:
    """Train MAMDR, or a framework that it is compared with; then evaluate, export and report."""
    if ray is not None and domain is not None:
        raise typer.BadParameter("a domain is added by one process: leave --ray out", param_hint="--domain")

    def work(console: Console) -> None:
        from training.config import read_config
        from training.frameworks.config import MamdrConfig
        from training.frameworks.run import train_mamdr
        from training.progress import RichMeter

        settings = read_config(config, MamdrConfig, seed=seed, data=data, framework=framework, specific=specific)
        meter = RichMeter(console)
        if ray is None:
            train_mamdr(settings, out, resume=resume, meter=meter, domain=domain)
            return
        from training.cluster.train import train_on_ray

        cluster = cluster_of(workers, shards, staleness, mode, combine)
        train_on_ray(settings, out, address=address_of(ray), resume=resume, meter=meter, cluster=cluster)

    run_training(out, work)


def cluster_of(workers: int, shards: int, staleness: int, mode: Mode, combine: Combine) -> ClusterConfig:
    """Return what the options of `--ray` ask for."""
    from training.cluster.config import ClusterConfig

    keys = {"workers": workers, "shards": shards, "mode": mode.value, "staleness": staleness, "combine": combine.value}
    return ClusterConfig.model_validate(keys)
