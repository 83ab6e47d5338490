"""`espalier domain add`: from rows of a domain that the backbone never saw to a live adapter, in one command."""

from __future__ import annotations

import os
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from adapters_store.durable import write_durably
from adapters_store.errors import StoreError, StoreUnavailable
from adapters_store.records import DomainRecord
from adapters_store.store import AdapterStore
from cli.audit import audited, author
from cli.printing import AsJson, print_json
from cli.stores import StoreUrl, refused, with_store
from features.errors import FeatureError

if TYPE_CHECKING:
    from adapters_store.feature_tables import Side
    from training.newcomer.addition import Addition
    from training.newcomer.config import NewcomerConfig
    from training.newcomer.ground import Ground, Over

app = typer.Typer(help="Add domains that the backbone never saw.", no_args_is_help=True)

COMMAND = "espalier domain add"
WITHHELD = 3


class Policy(StrEnum):
    """What becomes of an adapter that does not pass the publish gate."""

    RECORD = "record"
    WITHHOLD = "withhold"
    NONE = "none"


class Overlaid(StrEnum):
    """Which ids get an embedding of the domain's own."""

    UNSEEN = "unseen"
    RARE = "rare"
    ALL = "all"
    NONE = "none"


@app.callback()
def domain() -> None:
    """Add domains that the backbone never saw."""


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Id of the new domain, of the natural division.")],
    rows: Annotated[
        Path,
        typer.Option(
            help="Parquet: user_id, item_id, label, and a column for each field of context.",
            exists=True,
            dir_okay=False,
        ),
    ],
    store: StoreUrl,
    users: Annotated[
        Path | None, typer.Option(help="Parquet of users, in the form of `features publish`.", exists=True)
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help="Parquet of items, in the form of `features publish`.", exists=True)
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML of the training; every key has a default.", dir_okay=False)
    ] = None,
    gate: Annotated[Policy | None, typer.Option(help="Replaces the configuration's policy of the gate.")] = None,
    overlay: Annotated[Overlaid | None, typer.Option(help="Replaces the configuration's choice of ids.")] = None,
    seed: Annotated[int | None, typer.Option(help="Replaces the configuration's seed.", min=0)] = None,
    go_on: Annotated[bool, typer.Option("--continue", help="Train on from the revision that is live.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Train anew, in the place of what is live.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the artifact to this file.", dir_okay=False)] = None,
    by: Annotated[str | None, typer.Option(help="Who publishes, for the record.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Train and verify, publish nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train LoRA and id overlay of a new domain on the store's backbone, calibrate, judge, and make it live.

    Users and items that the feature tables lack are added to them. Ends with status 3 where the gate withholds it.
    """
    # as in `espalier train`: torch's threads spin while they wait for each other; read once, when torch is loaded
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from network.errors import NetworkError
    from service.errors import ServiceError
    from training.errors import TrainingError

    began = time.monotonic()
    who = by or author(COMMAND)
    if go_on and replace:
        raise typer.BadParameter("--continue trains on from what is live, --replace anew: choose one")
    try:
        settings = _settings(config, gate, overlay, seed)
        over: Over = "continue" if go_on else "replace" if replace else "none"
        ground = _ground(name, store, {"users": users, "items": items}, over)
        made = _made(rows, ground, settings, Console(stderr=True))
        if out is not None:
            _keep(out, made.content)
        record = None if dry_run or made.withheld else _published(store, ground, made, who)
    except (TrainingError, NetworkError, FeatureError, StoreError, ServiceError) as error:
        raise refused(error, store) from error
    seconds = time.monotonic() - began
    if as_json:
        print_json(_content(ground, made, record, seconds))
    else:
        _say(ground, made, record, seconds)
    if made.withheld:
        raise typer.Exit(WITHHELD)


def _settings(config: Path | None, gate: Policy | None, overlay: Overlaid | None, seed: int | None) -> NewcomerConfig:
    """The configuration, with what the command line replaces."""
    from training.config import read_config
    from training.newcomer.config import NewcomerConfig

    settings = NewcomerConfig() if config is None else read_config(config, NewcomerConfig)
    changes: dict[str, Any] = {} if seed is None else {"seed": seed}
    if gate is not None:
        changes["gate"] = settings.gate.model_copy(update={"policy": gate.value})
    if overlay is not None:
        changes["overlay"] = settings.overlay.model_copy(update={"ids": overlay.value})
    return settings.model_copy(update=changes)


def _ground(name: str, store: str, files: dict[Side, Path | None], over: Over) -> Ground:
    """What the store has, with the users and items of these files."""
    from training.newcomer.ground import read_ground

    async def read(opened: AdapterStore) -> Ground:
        return await read_ground(opened, name, over)

    ground = with_store(store, read)
    return ground.with_files({side: path for side, path in files.items() if path is not None})


def _made(rows: Path, ground: Ground, settings: NewcomerConfig, console: Console) -> Addition:
    """Train, and hold the artifact to what replicas hold it to."""
    from service.engines.onnx import OnnxEngine
    from training.newcomer.addition import make_addition
    from training.newcomer.publishing import verify_newcomer
    from training.newcomer.rows import read_rows
    from training.progress import RichMeter

    context = [field for field in ground.bundle.manifest.fields if field.of == "context"]
    given = read_rows(rows, ground.domain, context, ground.fused_divisions)
    made = make_addition(given, ground, settings, RichMeter(console))
    verify_newcomer(made.content, ground, OnnxEngine(ground.bundle).logits)
    return made


def _keep(path: Path, content: bytes) -> None:
    try:
        write_durably(path, content)
    except OSError as error:
        raise StoreUnavailable(f"cannot write {path}: {error.strerror}") from error


def _published(store: str, ground: Ground, made: Addition, by: str) -> DomainRecord:
    """Add the new ids to the tables, and make the adapter live."""
    from training.newcomer.publishing import NewcomerPublisher

    async def work(opened: AdapterStore) -> DomainRecord:
        publisher = NewcomerPublisher(opened, ground, made.content, by)
        await publisher.prepare()
        for side in publisher.sides:
            with audited("publish_features", by, store, side=side, fingerprint=ground.bundle.fingerprint) as entry:
                done = await publisher.layer(side)
                entry.moved(ground.tables[side].revision, done.revision)
                entry.done(done.status, revision=done.revision)
        with audited("publish", by, store, domain=ground.domain, revision=made.revision) as entry:
            record = await publisher.live()
            entry.moved(ground.live, made.revision)
            entry.done("changed" if ground.live != made.revision else "unchanged", generation=record.generation)
        return record

    return with_store(store, work)


def _content(ground: Ground, made: Addition, record: DomainRecord | None, seconds: float) -> dict[str, Any]:
    verdict = made.verdict
    return {
        "domain": ground.domain,
        "backbone": ground.bundle.revision,
        "added": {side: len(added.rows.index) for side, added in ground.added.items()},
        "overlay": made.overlaid,
        "rows": {"train": len(made.split.train), **{part: found["rows"] for part, found in made.figures.items()}},
        "epoch": made.trained.fitted.epoch,
        "drift": None if made.drift is None else dict(made.drift),
        "figures": {part: dict(found) for part, found in made.figures.items()},
        "gate": None if verdict is None else verdict.record(),
        "rival": None if ground.rival is None else ground.rival.revision,
        "withheld": made.withheld,
        "revision": made.revision,
        "size_bytes": len(made.content),
        "generation": None if record is None else record.generation,
        "seconds": round(seconds, 3),
    }


def _say(ground: Ground, made: Addition, record: DomainRecord | None, seconds: float) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for line in _lines(ground, made):
        console.print(line, markup=False)
    if made.withheld:
        outcome = f"nothing is published: {ground.live or 'the backbone'} scores this domain as before"
    elif record is None:
        outcome = "verified; nothing written"
    else:
        outcome = f"live: generation {record.generation}"
    console.print(f"{outcome}; {seconds:.1f} s", markup=False)


def _lines(ground: Ground, made: Addition) -> list[str]:
    """What was done, a line a step."""
    lines = []
    for side, added in ground.added.items():
        known = f"; {added.known:,} of the file are known and stay as they are" if added.known else ""
        lines.append(f"{side}: {len(added.rows.index):,} new to the feature table{known}")
    overlaid = " and ".join(f"{count:,} {side}s" for side, count in made.overlaid.items()) or "no ids"
    fitted, rows = made.trained.fitted, len(made.split.train)
    passes = len([entry for entry in fitted.history if entry["epoch"] > 0])
    what = f"an overlay of {overlaid}"
    what = f"{what} alone, for a fused adapter stays as it is" if made.overlay_alone else f"LoRA, and {what}"
    lines.append(f"trained on {rows:,} rows: {what}; backbone {ground.bundle.revision[:12]}")
    chosen = (
        "the last is taken, for validation has too few rows" if made.trained.blind else f"epoch {fitted.epoch} is best"
    )
    lines.append(f"{passes} epochs; {chosen}")
    for part, found in made.figures.items():
        if found["auc"] is not None:
            live = f"{found['auc_live']:.4f} by what is live, " if "auc_live" in found else ""
            aucs = f"AUC {found['auc_backbone']:.4f} by the backbone, {live}{found['auc']:.4f} by the adapter"
            lines.append(f"{part}: {aucs} ({found['rows']:,} rows, {found['positives']:,} positive)")
    calibration = next(iter(made.judged.calibrations["single"].values()))
    served = calibration.served()
    as_before = "as it was" if made.overlay_alone else "none"
    lines.append(
        f"calibration: {as_before}, {calibration.reason}"
        if calibration.reason
        else f"calibration: {served['slope']:.4f} * logit + {served['intercept']:.4f}"
    )
    if made.drift is not None:
        moved = f"{made.drift['mean']:.4f} on average, {made.drift['largest']:.4f} at most"
        lines.append(f"drift: probabilities of {made.drift['rows']:,} rows moved by {moved}")
    verdict = made.verdict
    if verdict is not None:
        lines.append(f"gate: {'passed' if verdict.passed else 'not passed'}: {verdict.reason}")
        if ground.live is not None and ground.rival is None:
            lines.append(
                f"judged against the backbone, not against what is live: {ground.live} is a delta or of another "
                "backbone, or cannot be read"
            )
    lines.append(f"adapter {made.revision}: {len(made.content):,} bytes")
    return lines
