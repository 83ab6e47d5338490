"""Every form in which MAMDR is published: served within tolerance of the oracle, swapped in, and what it weighs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters_store.backbone import read_bundle
from benchmarks.claims.line import Line, at_least, at_most, exactly, measured
from benchmarks.claims.served import both_ways, draws, publish_mode, publish_run
from benchmarks.claims.trainings import fresh
from benchmarks.claims.workplace import Workplace, serving
from benchmarks.forge import Run
from training.artifacts_of import Notes, Source
from training.deltas.compressed import compressed_artifact
from training.deltas.compression import BOUND, Compressed, compress
from training.deltas.delta import delta_artifact
from training.deltas.evaluation import ValidationAuc
from training.deltas.overlay import row_sparse
from training.errors import CompressionRefused
from training.frameworks.config import MamdrConfig
from training.frameworks.run import MamdrRun, train_mamdr
from training.frameworks.structure import PlainStructure
from training.frameworks.trained import Trained, shared_backbone, trained
from training.golden import Dtype, exact_backbone
from training.progress import SilentMeter
from training.sources.synthetic import SyntheticWorld, synthetic

DRAWS = 200
BASE: dict[str, Any] = {
    "framework": "mamdr",
    "network": {"width": 16, "tower": [256, 128], "dropout": 0.2, "norm": False},
    "epochs": 12,
    "patience": 3,
    "regularization": {"others": 3, "gamma": 0.1},
}


@dataclass(frozen=True)
class Learned:
    """A finished run, and what artifacts of its domains are made from."""

    run: MamdrRun
    trained: Trained

    def source(self, dtype: Dtype) -> Source:
        """Of artifacts in one dtype."""
        run = self.run
        return Source(
            dataset=run.dataset,
            rows=run.rows,
            positions=run.split.test,
            backbone=exact_backbone(self.trained.backbone),
            fingerprint=read_bundle(run.out / "bundle").fingerprint,
            dtype=dtype,
            created_at=None,
        )


def prepare(work: Workplace) -> Path:
    """The synthetic world of the demo; smaller for a try, in a folder of its own."""
    folder = fresh(work, "kinds-data-tried" if work.quick else "kinds-data")
    if not (folder / "spec.json").exists():
        synthetic(SyntheticWorld(rows=40_000, domains=4) if work.quick else SyntheticWorld()).write(folder)
    return folder


def learn(work: Workplace, data: Path, name: str, **changes: Any) -> MamdrRun:
    """Train MAMDR once; the folder is its own."""
    out = fresh(work, f"kinds-{name}")
    config = MamdrConfig.model_validate({**BASE, "data": data, **changes, **({"epochs": 2} if work.quick else {})})
    train_mamdr(config, out, resume=True)
    return MamdrRun(config, out, SilentMeter())


def learned_of(run: MamdrRun) -> Learned:
    """Its theta_S and theta_i under a bundle's names."""
    structure = run.setting.structure
    assert isinstance(structure, PlainStructure)
    state = run.finished().state
    return Learned(run, trained(run.setting, shared_backbone(run.setting, structure.backbone, state), state))


def forms(learned: Learned) -> dict[str, dict[str, bytes]]:
    """Form to domain to artifact."""
    found: dict[str, dict[str, bytes]] = {"delta fp32": {}, "delta fp16": {}, "delta fp16, row-sparse": {}}
    dataset, shared = learned.run.dataset, learned.trained.shared
    for domain, own in learned.trained.domains.items():
        theta_i = own.full(shared)
        overlays, rest = row_sparse(dataset.fields, dataset.vocabulary, shared, theta_i)
        for form, dtype, delta, more in (
            ("delta fp32", "float32", theta_i, []),
            ("delta fp16", "float16", theta_i, []),
            ("delta fp16, row-sparse", "float16", rest, overlays),
        ):
            found[form][own.name] = delta_artifact(learned.source(dtype), domain, delta, Notes(), more)  # type: ignore[arg-type] # a literal
    return found


def compressions(learned: Learned) -> Iterator[tuple[str, Compressed | str, bytes]]:
    """Each domain's compressed delta and its file, or why it was refused."""
    dataset, run = learned.run.dataset, learned.run
    for domain, own in learned.trained.domains.items():
        evaluate = ValidationAuc(learned.trained.backbone.shape, run.rows, run.domains.stop[domain])
        theta_i = own.full(learned.trained.shared)
        try:
            found = compress(
                learned.trained.backbone, dataset.fields, dataset.vocabulary, theta_i, evaluate, domain=own.name
            )
        except CompressionRefused as error:
            yield own.name, str(error), b""
        else:
            yield own.name, found, compressed_artifact(learned.source("float16"), domain, found, Notes())


def lines(work: Workplace) -> Iterator[Line]:
    """Serve each form on one server, one after the other: every publish swaps the form before it out."""
    data = prepare(work)
    shared, sparse = (learn(work, data, name, embeddings=name) for name in ("shared", "deltas"))
    learned = learned_of(shared)
    found = forms(learned)
    ended = list(compressions(learned))
    found["compressed"] = {name: content for name, _, content in ended if content}
    yield from sizes(found, ended)
    yield from served(work, shared.out, {form: own for form, own in found.items() if own and "sparse" not in form})
    yield from served(work, sparse.out, {"delta fp16, row-sparse": forms(learned_of(sparse))["delta fp16, row-sparse"]})
    lora = learn(work, data, "lora", specific="lora", lora={"ranks": [8, 8]})
    files = {path.stem: path.read_bytes() for path in sorted((lora.out / "adapters").glob("*.safetensors"))}
    yield from served(work, lora.out, {"MAMDR-LoRA": files})


def sizes(found: dict[str, dict[str, bytes]], ended: list[tuple[str, Compressed | str, bytes]]) -> Iterator[Line]:
    """What compression leaves of the bytes, and what it costs."""
    kept = [(name, one) for name, one, _ in ended if isinstance(one, Compressed)]
    refused = [f"{name}: {one}" for name, one, _ in ended if isinstance(one, str)]
    yield exactly("deltas that a LoRA stands in for within the gate", len(kept), len(ended))
    yield from (measured("refused", reason) for reason in refused)
    if not kept:
        return
    whole = sum(len(found["delta fp16"][name]) for name, _ in kept)
    small = sum(len(found["compressed"][name]) for name, _ in kept)
    yield at_most("bytes of compressed deltas, of the same deltas in fp16", small / whole, 0.10, digits=4)
    yield at_most(
        "validation AUC lost by compression, most of any domain",
        max(o.record["auc_loss"] for _, o in kept),
        BOUND,
        digits=6,
    )
    ranks = [rank for _, one in kept for rank in one.ranks.values()]
    yield measured("ranks chosen", f"median {int(np.median(ranks))}, {min(ranks)} to {max(ranks)}")


def served(work: Workplace, folder: Path, found: dict[str, dict[str, bytes]]) -> Iterator[Line]:
    """Every form of one run, published over HTTP and asked alone and in mixed batches."""
    run = Run(folder)
    with serving(work, publish_run(work, run)) as server:
        for number, (form, files) in enumerate(found.items()):
            paths = write(work.folder / "kinds-files" / form.replace(" ", "-").replace(",", ""), files)
            publish_mode(server, paths)
            wanted = [
                one for one in draws(run, run.oracle, run.natural() | paths, DRAWS, seed=number) if one.domain in paths
            ]
            alone, mixed = asyncio.run(both_ways(server, wanted))
            worst = max(error for error, _ in alone + mixed)
            yield at_most(f"served = oracle, {form}, {len(wanted)} draws twice: max |dp|", worst, 2e-6, digits=9)
            moved = sum(np.abs(one.expected - one.backbone).max() > 1e-4 for one in wanted) / len(wanted)
            yield at_least(f"share of them that theta_S alone scores otherwise (> 1e-4), {form}", moved, 0.95)
            yield exactly(
                f"answers by the revision just published, {form}", sum(ok for _, ok in alone + mixed), 2 * len(wanted)
            )


def write(folder: Path, files: dict[str, bytes]) -> dict[str, Path]:
    """One file a domain."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.safetensors" for name in files}
    for name, content in files.items():
        paths[name].write_bytes(content)
    return paths
