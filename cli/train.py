"""`espalier train`: the three stages, one by one or all; their baselines; and MAMDR."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from cli.publish import publish
from cli.stores import SCHEMES, with_store
from cli.train_mamdr import mamdr
from cli.train_options import Config, Data, MayLackAddress, Out, Resume, Seed, address_of, run_training

if TYPE_CHECKING:
    from adapters_store.store import AdapterStore

app = typer.Typer(help="Train a backbone, its domains' adapters and their fusion.", no_args_is_help=True)

Packs = Annotated[str | None, typer.Option("--packs", help="i/n: train the i-th of n shares of the packs alone.")]
PacksOnRay = Annotated[
    str | None,
    typer.Option(
        "--ray",
        help="Train packs on this Ray cluster; without an address, on one that is started here.",
    ),
]
PackWorkers = Annotated[int, typer.Option("--workers", help="Processes that train packs (--ray).", min=1)]
PublishTo = Annotated[  # not from ESPALIER_STORE: training alone makes nothing live
    str | None,
    typer.Option("--store", help=f"Then publish the run to the adapter store of this URL: {SCHEMES}."),
]


@app.command()
def pretrain(config: Config, out: Out, resume: Resume = False, seed: Seed = None, data: Data = None) -> None:
    """Train the backbone on all rows (stage 1)."""
    _train("pretrain", config, out, resume, seed, data)


@app.command(cls=MayLackAddress)
def adapters(
    config: Config,
    out: Out,
    resume: Resume = False,
    seed: Seed = None,
    data: Data = None,
    packs: Packs = None,
    ray: PacksOnRay = None,
    workers: PackWorkers = 2,
) -> None:
    """Train every domain's adapter; the run folder must hold a backbone (stage 2).

    --packs and --ray need `packed` in the configuration.
    """
    share = _share(packs, ray)
    if ray is not None:
        _train_on_ray("adapters", config, out, resume, seed, data, ray, workers)
    else:
        _train("adapters", config, out, resume, seed, data, share)


@app.command()
def fuse(config: Config, out: Out, resume: Resume = False, seed: Seed = None, data: Data = None) -> None:
    """Train the fusion, then export, evaluate and report; the run folder must hold adapters (stage 3)."""
    _train("fuse", config, out, resume, seed, data)


@app.command(name="all", cls=MayLackAddress)
def every(
    config: Config,
    out: Out,
    resume: Resume = False,
    seed: Seed = None,
    data: Data = None,
    ray: PacksOnRay = None,
    workers: PackWorkers = 2,
    store: PublishTo = None,
) -> None:
    """Train all three stages, then export, evaluate and report; with --store also publish, as `espalier publish`."""
    if store is not None:
        with_store(store, _reached, create=True)  # one that cannot be had is told now, and not after hours of training
    if ray is not None:
        _train_on_ray("all", config, out, resume, seed, data, ray, workers)
    else:
        _train("all", config, out, resume, seed, data)
    if store is not None:
        publish(out, store)


class Whole(StrEnum):
    """A baseline that trains a whole network for each domain."""

    FINETUNE = "finetune"
    SINGLE = "single"


@app.command(cls=MayLackAddress)
def whole(
    config: Config,
    out: Out,
    names: Annotated[
        list[Whole] | None,
        typer.Argument(help="Fine-tune starts from the backbone, Single from random weights; by default both."),
    ] = None,
    resume: Resume = False,
    seed: Seed = None,
    data: Data = None,
    packs: Packs = None,
    ray: PacksOnRay = None,
    workers: PackWorkers = 2,
) -> None:
    """Train a whole network for each domain, and compare these baselines with the backbone; OUT/whole is the report.

    The backbone is the run folder's, and is trained first where that has none. With --packs there must be one, and
    nothing is compared: bring the shares together and run it once more with --resume.
    """
    share = _share(packs, ray)
    if ray in tuple(Whole):
        raise typer.BadParameter(f"{ray!r} is a baseline: write it before --ray", param_hint="--ray")

    def work(console: Console) -> None:
        from training.config import load_config
        from training.progress import RichMeter
        from training.whole import WHOLE_KINDS, train_whole

        settings, meter = load_config(config, seed=seed, data=data), RichMeter(console)
        kinds = [kind for kind in WHOLE_KINDS if not names or Whole(kind) in names]
        if ray is None:
            train_whole(kinds, settings, out, resume=resume, meter=meter, share=share)
            return
        from training.packed.ray_packs import PackCluster, on_ray, train_whole_on

        cluster = PackCluster(workers=workers)
        train_whole_on(on_ray(address_of(ray), cluster), kinds, settings, out, cluster, resume=resume, meter=meter)

    run_training(out, work)


@app.command()
def overlays(
    run: Annotated[Path, typer.Argument(help="Folder that `espalier train all` wrote.", file_okay=False, exists=True)],
    out: Annotated[Path, typer.Option("--out", help="A new folder, which `espalier publish` takes.", file_okay=False)],
    config: Annotated[
        Path | None,
        typer.Option("--config", help="YAML as `domain add` takes it; overlay.ids: all or rare.", dir_okay=False),
    ] = None,
    resume: Resume = False,
    data: Data = None,
) -> None:
    """Train a finished run's adapters on, each with its domain's own embeddings of ids; keep what passes the gate.

    Beside a fused adapter the embeddings alone are trained. All other artifacts are as they were.
    """

    def work(console: Console) -> None:
        from service.engines.onnx import OnnxEngine
        from training.config import GateConfig, read_config
        from training.newcomer.config import NewcomerConfig, OverlayConfig
        from training.newcomer.of_run import overlay_run
        from training.progress import RichMeter

        usual = NewcomerConfig(overlay=OverlayConfig(ids="all"), gate=GateConfig())
        settings, meter = usual if config is None else read_config(config, NewcomerConfig), RichMeter(console)
        done = overlay_run(
            run, out, settings, lambda bundle: OnnxEngine(bundle).logits, data=data, resume=resume, meter=meter
        )
        replaced = sum(one.replaced for one in done.values())
        meter.say(f"{replaced} of {len(done)} domains have overlays now; publish them: espalier publish {out}")

    run_training(out, work)


@app.command()
def divisions(config: Config, out: Out, resume: Resume = False, seed: Seed = None, data: Data = None) -> None:
    """Choose auxiliary divisions by cheap probes; OUT/divisions gets the table, the data and the configuration."""

    def work(console: Console) -> None:
        from training.chooser.choosing import choose_divisions
        from training.config import load_config
        from training.progress import RichMeter

        settings = load_config(config, seed=seed, data=data)
        ranking = choose_divisions(settings, out, resume=resume, meter=RichMeter(console))
        table = ranking.table()
        for row in (table.header, *table.rows):
            console.print("  ".join(row), highlight=False, markup=False, soft_wrap=True)
        console.print(f"configuration: {out / 'divisions' / 'config.yaml'}", soft_wrap=True, markup=False)

    run_training(out, work)


@app.command()
def search(
    config: Config,
    out: Out,
    trials: Annotated[
        int, typer.Option("--trials", help="Of each method, the configuration as given among them.", min=1)
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="pretrain, adapters, fuse, finetune, single; or frameworks and networks, where the configuration is "
            "of `train mamdr`. By default the three stages, or what the configuration trains.",
            show_default=False,
        ),
    ] = None,
    hours: Annotated[
        float | None, typer.Option("--hours", help="No trial begins after so many hours of a method's trials.", min=0.0)
    ] = None,
    space: Annotated[
        Path | None, typer.Option("--space", help="YAML file of spaces that replace the usual ones.", dir_okay=False)
    ] = None,
    resume: Resume = False,
    seed: Seed = None,
    data: Data = None,
) -> None:
    """Search settings on validation; OUT gets search.md, search.json and a configuration for each name."""

    def work(console: Console) -> None:
        from training.progress import RichMeter
        from training.search.found import Budget
        from training.search.searching import search as search_all
        from training.search.space import read_spaces
        from training.search.writing import summary
        from training.trials.code import code_commit
        from training.trials.seeds import read_any

        settings, meter = read_any(config, seed=seed, data=data), RichMeter(console)
        spaces = None if space is None else read_spaces(space)
        found = search_all(
            settings,
            names or (),
            out,
            Budget(trials, hours),
            spaces=spaces,
            resume=resume,
            meter=meter,
            commit=code_commit(),
        )
        table = summary(found)
        for row in (table.header, *table.rows):
            meter.say("  ".join(row))
        for one in found:
            meter.say(f"configuration: {out / one.name / 'config.yaml'}")
        meter.say(f"tables: {out / 'search.md'}")

    run_training(out, work)


app.command(cls=MayLackAddress)(mamdr)


def share_of(packs: str) -> tuple[int, int]:
    """Read `i/n`.

    Raises:
        BadParameter: it is something else.
    """
    part, slash, parts = packs.partition("/")
    if not (slash and part.isascii() and part.isdigit() and parts.isascii() and parts.isdigit()):
        raise typer.BadParameter(f"{packs!r} is no share: write i/n, such as 1/4", param_hint="--packs")
    return int(part), int(parts)


def _share(packs: str | None, ray: str | None) -> tuple[int, int] | None:
    """What `--packs` says, which stands beside no `--ray`."""
    if ray is not None and packs is not None:
        raise typer.BadParameter("a Ray cluster trains all packs: leave --packs out", param_hint="--ray")
    return None if packs is None else share_of(packs)


async def _reached(store: AdapterStore) -> None:
    """Read a store, to see that it is there."""
    await store.backbone_record()


def _train(
    stage: str,
    config: Path,
    out: Path,
    resume: bool,
    seed: int | None,
    data: Path | None,
    share: tuple[int, int] | None = None,
) -> None:
    def work(console: Console) -> None:
        from training.config import load_config
        from training.pipeline import train
        from training.progress import RichMeter

        settings = load_config(config, seed=seed, data=data)
        train(stage, settings, out, resume=resume, meter=RichMeter(console), share=share)

    run_training(out, work)


def _train_on_ray(
    stage: Literal["adapters", "all"],
    config: Path,
    out: Path,
    resume: bool,
    seed: int | None,
    data: Path | None,
    ray: str,
    workers: int,
) -> None:
    def work(console: Console) -> None:
        from training.config import load_config
        from training.packed.ray_packs import PackCluster, on_ray, train_packs_on
        from training.progress import RichMeter

        settings = load_config(config, seed=seed, data=data)
        cluster, meter = PackCluster(workers=workers), RichMeter(console)
        train_packs_on(on_ray(address_of(ray), cluster), stage, settings, out, cluster, resume=resume, meter=meter)

    run_training(out, work)
