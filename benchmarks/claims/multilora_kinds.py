"""Every backbone in every mode, with and without an id overlay: served within tolerance of the oracle."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.claims.line import Line, at_least, at_most, exactly
from benchmarks.claims.mamdr_kinds import write
from benchmarks.claims.multilora_movielens import small_world
from benchmarks.claims.served import MODES, both_ways, draws, publish_mode, publish_run
from benchmarks.claims.trainings import fresh
from benchmarks.claims.workplace import Server, Workplace, serving
from benchmarks.forge import Edit, Run, forge
from benchmarks.oracle import Oracle
from benchmarks.oracle_files import Array
from features.index import RawIndex
from features.overlay import id_tensors
from training.config import TrainingConfig
from training.pipeline import train_all

KINDS = ("mlp", "wide_deep", "deepfm", "dcn", "dcn_v2", "neurfm", "autoint")
DRAWS, QUICK_DRAWS = 48, 12
SHARE = 0.5
"""Of the known ids that an overlay has; it also has the two that no table knows."""
STAGE: dict[str, Any] = {"lr": 5e-3, "weight_decay": 0.0, "batch_rows": 1024, "epochs": 2, "dropout": 0.1}
SETTINGS: dict[str, Any] = {
    "threads": 1,
    "backbone": {"width": 8, "tower": [32, 16], "embedding_std": 0.1, "cross_layers": 2, "attention_layers": 2},
    "adapter": {"ranks": [4, 4], "interaction_rank": 4},
    "pretrain": STAGE,
    "adapters": STAGE,
    "fuse": STAGE,
    "fusion": {"min_tuple_rows": 50},
    "select": "last_epoch",
    "gate": {"policy": "none"},
    "export_ablations": True,
    "bootstrap_draws": 100,
}


def lines(work: Workplace) -> Iterator[Line]:
    """Kind by kind: one run, one server, every publish swaps the mode before it out."""
    data = small_world(work)
    for kind in KINDS[::3] if work.quick else KINDS:
        yield from kind_lines(work, data, kind)


def kind_lines(work: Workplace, data: Path, kind: str) -> Iterator[Line]:
    """All modes of one backbone."""
    run = trained(work, data, kind)
    forms = {"without overlay": {mode: run.natural(mode) for mode in MODES}}
    forms["with overlay"] = {
        mode: overlaid(work.folder / "overlaid" / kind / mode, run, paths)
        for mode, paths in forms["without overlay"].items()
    }
    count = QUICK_DRAWS if work.quick else DRAWS
    with serving(work, publish_run(work, run)) as server:
        for form, modes in forms.items():
            found = [
                one for mode, paths in modes.items() for one in asked(server, run, paths, count, MODES.index(mode))
            ]
            what = f"{kind}, {form}, modes {', '.join(MODES)}, {count} draws twice each"
            yield at_most(f"served = oracle, {what}: max |dp|", max(error for error, _, _ in found), 2e-6, digits=9)
            yield exactly(f"{what}: answers not by the revision just published", sum(not ok for _, ok, _ in found), 0)
            moved = float(np.mean([far for _, _, far in found]))
            yield at_least(f"{what}: share of the draws that are not the backbone's", moved, 0.95, digits=3)


def trained(work: Workplace, data: Path, kind: str) -> Run:
    """A run whose adapters no gate and no early stop has emptied."""
    out = fresh(work, f"kind-{kind}")
    backbone = {**SETTINGS["backbone"], "kind": kind}
    config = TrainingConfig.model_validate({**SETTINGS, "backbone": backbone, "data": data})
    return Run(train_all(config, out, resume=True))


def overlaid(folder: Path, run: Run, paths: dict[str, Path]) -> dict[str, Path]:
    """The same adapters with overlays of random rows."""
    oracle, auxiliaries, fusion = run.oracle, run.auxiliaries(), run.fusion()
    edits = {domain: overlay(oracle, np.random.default_rng(i)) for i, domain in enumerate(paths)}
    files = {
        domain: forge(path.read_bytes(), edits[domain], oracle, auxiliaries, fusion) for domain, path in paths.items()
    }
    return write(folder, files)


def overlay(oracle: Oracle, rng: np.random.Generator) -> Edit:
    """Give an adapter embeddings of its own for some ids of both sides."""

    def edit(tensors: dict[str, Array], manifest: dict[str, Any]) -> None:
        golden = len(tensors["golden.logits"])
        for side in ("user", "item"):
            known = [raw for raw in oracle.index[side] if rng.random() < SHARE]
            ids, width = [*known, f"no-such-{side}"], oracle.id_field(side)["width"]
            tensors |= id_tensors(RawIndex.from_values(ids), f"overlay.{side}")
            tensors[f"overlay.{side}.rows"] = rng.normal(0, 0.5, (len(ids), width)).astype(np.float16)
            if oracle.first_order:
                tensors[f"overlay.{side}.first_order"] = rng.normal(0, 0.2, len(ids)).astype(np.float16)
            tensors[f"golden.overlay.{side}"] = rng.integers(-1, len(ids), golden).astype(np.int32)

    return edit


def asked(server: Server, run: Run, paths: dict[str, Path], count: int, seed: int) -> list[tuple[float, bool, bool]]:
    """Publish one mode and ask for random requests, alone and in mixed batches.

    Returns:
        For each answer: its largest error, whether it names the revision just published, and whether the oracle has it
        more than 1e-4 away from the backbone's.
    """
    publish_mode(server, paths)
    wanted = draws(run, run.oracle, paths, count, seed)
    alone, mixed = asyncio.run(both_ways(server, wanted))
    far = [bool(np.abs(one.expected - one.backbone).max() > 1e-4) for one in wanted]
    return [(error, ok, moved) for answers in (alone, mixed) for (error, ok), moved in zip(answers, far, strict=True)]
