"""A backbone that never saw some rows, and the ways to bring them back: LoRA, id overlay, both, a full fine-tune."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from adapters_store.backbone import Backbone as Bundle
from adapters_store.backbone import read_bundle
from adapters_store.feature_tables import SIDES, bundled_table
from features.vocabulary import Vocabulary
from network.backbone import Backbone
from training.adapters import AdapterTrainer, Place
from training.batches import RowTensors, logits_of
from training.checkpoint import Memory, StateFolder
from training.config import Schedule, TrainingConfig
from training.dataset import Split
from training.export import TrainedRun, export_bundle
from training.loops import Fitted, Loop, Trainee
from training.metrics import auc
from training.newcomer.addition import make_addition, overlays_of
from training.newcomer.config import NewcomerConfig, OverlayConfig
from training.newcomer.encoding import EncodedNewcomer, encode_rows
from training.newcomer.ground import Ground
from training.newcomer.loading import network_of
from training.newcomer.network import NewcomerNetwork
from training.newcomer.overlay import Chosen
from training.newcomer.rows import NewRows, split_rows
from training.newcomer.trainer import TrainedNewcomer, train_newcomer
from training.packed.config import PackedConfig
from training.packed.course import Terms
from training.packed.whole import WholeTrainer
from training.prepared import PARTS, PreparedDataset
from training.progress import SilentMeter
from training.seeds import Stream
from training.stages import Run

NAME = "left-out"
WHOLE = Schedule(lr=1e-3, weight_decay=1e-5, batch_rows=1024, epochs=20, patience=3, dropout=0.2)
RATES = (1e-3, 3e-4)
"""Step sizes of the full fine-tune; validation chooses, and the other one's time is not counted."""
FALLING = WHOLE.model_copy(update={"epochs": 3, "patience": 3})
"""The full fine-tune as new domains are trained: few passes of a falling step."""
REQUESTS, ITEMS = 32, 100
Ids = Literal["unseen", "none"]


@dataclass(frozen=True)
class Added:
    """What one method gives.

    Args:
        auc: of the left-out domain's test rows.
        seconds: processor time of its training.
        trained: what an artifact is made of; None where it is no adapter.
        weight_bytes: of a full model in float32.
    """

    auc: float
    seconds: float
    trained: TrainedNewcomer | None = None
    weight_bytes: int = 0


@dataclass(frozen=True)
class Grounds:
    """A backbone without the domain, and the domain's rows.

    Args:
        bundle: of the backbone.
        bundle_bytes: of all its files.
        ground: what a new domain stands on.
        rows: the domain's.
        config: how LoRA and overlay are trained.
        folder: for checkpoints.
    """

    bundle: Bundle
    bundle_bytes: int
    ground: Ground
    rows: NewRows
    config: NewcomerConfig
    folder: Path

    @cached_property
    def encoded(self) -> EncodedNewcomer:
        """The rows as the service would encode them."""
        return encode_rows(self.rows, self.ground)

    @cached_property
    def split(self) -> Split:
        """What each row serves."""
        return split_rows(self.rows, self.config.validation, self.config.seed)

    @cached_property
    def backbone(self) -> Backbone:
        """The network, frozen."""
        return network_of(self.bundle)

    def auc_of_backbone(self) -> float:
        """Zero-shot."""
        rows = RowTensors(self.encoded.dataset)
        test = torch.from_numpy(self.split.test)
        return self._auc(logits_of(test, lambda part: self.backbone(rows.batch(part))))

    def added(self, lora: bool, ids: Ids) -> Added:
        """Train LoRA, overlay, or both."""
        config = self.config.model_copy(update={"overlay": OverlayConfig(ids=ids)})
        overlays = overlays_of(self.backbone, self.encoded, self.ground, self.split, config)
        rows = RowTensors(self.encoded.dataset)
        began = time.process_time()
        if lora:
            trained = train_newcomer(self.backbone, rows, self.split, overlays, config, SilentMeter())
            seconds = time.process_time() - began
            return Added(self._auc(trained.logits(self.split.test)), seconds, trained)
        network = self._overlay_alone(rows, overlays, config)
        seconds = time.process_time() - began
        return Added(self._auc(logits_of(torch.from_numpy(self.split.test), network.score)), seconds)

    def whole(self, falling: bool = False) -> Added:
        """Fine-tune every weight, the ids that the backbone never saw with rows of their own.

        Args:
            falling: by few passes of a falling step, rather than a constant one until validation no longer gains.
        """
        schedule = FALLING if falling else WHOLE
        tried = [self._whole(schedule.model_copy(update={"lr": rate}), falling) for rate in RATES]
        return max(tried, key=lambda one: one[0])[1]

    def artifact(self) -> bytes:
        """The domain's file as `espalier domain add` publishes it, with its figures, verdict and record."""
        return make_addition(self.rows, self.ground, self.config, SilentMeter(), self.split).content

    def requests(self) -> list[tuple[str, list[str]]]:
        """Users of the domain, each with items of it."""
        rng = np.random.default_rng(0)
        users, items = (self.rows.frame[f"{side}_id"].unique().sort().to_list() for side in ("user", "item"))
        count = min(ITEMS, len(items))
        return [(str(rng.choice(users)), [str(i) for i in rng.choice(items, count)]) for _ in range(REQUESTS)]

    def _overlay_alone(self, rows: RowTensors, overlays: Sequence[Chosen], config: NewcomerConfig) -> NewcomerNetwork:
        """Train the overlays over the backbone's own layers: the adapter stays what it is before its first step."""
        train, stop = torch.from_numpy(self.split.train), torch.from_numpy(self.split.stop)
        place, stream = _place(rows), Stream(config.seed, ("overlay",))
        shape = self.backbone.shape
        schedule = config.schedule.of_rows(len(train))
        plain = AdapterTrainer(
            self.backbone, rows, train, stop, config.lora(shape), schedule, "best", stream, SilentMeter()
        )
        network = NewcomerNetwork(self.backbone, rows, plain.untrained(place).requires_grad_(False).eval(), overlays)
        own = nn.ModuleList(chosen.overlay for chosen in overlays)

        def loss(batch: Tensor) -> Tensor:
            entropy = functional.binary_cross_entropy_with_logits(network.score(batch), rows.label[batch])
            return entropy + config.overlay.l2 / (2 * len(train)) * network.distance()

        trainee = Trainee(
            layer=own,
            trained=own,
            prepare=lambda: None,
            loss=loss,
            auc=lambda: rows.auc(stop, logits_of(stop, network.score)),
            start_counts=True,
            undecayed=list(own.parameters()),
        )
        memory = Memory(StateFolder(self.folder / "overlay-alone"), NAME, {})
        _fresh(memory)
        Loop(trainee, train, schedule, "best", stream, memory, SilentMeter(), falling=True).run()
        return network

    def _whole(self, schedule: Schedule, falling: bool) -> tuple[float, Added]:
        """Validation AUC, and the result."""
        rows, start = extended(self.encoded, self.backbone)
        train, stop, test = (torch.from_numpy(part) for part in (self.split.train, self.split.stop, self.split.test))
        stream = Stream(self.config.seed, ("whole",))
        terms = Terms(schedule, "best", start_counts=True)
        trainer = WholeTrainer(start, rows, train, stop, test, terms, stream, SilentMeter(), PackedConfig())
        memory = Memory(StateFolder(self.folder / "whole"), f"{NAME}-{schedule.lr:g}", {})
        _fresh(memory)
        began = time.process_time()
        found = trainer.one(_place(rows), memory, falling)
        seconds = time.process_time() - began
        logits = np.full(len(rows.label), np.nan)
        logits[found.rows.numpy()] = found.logits
        size = sum(4 * value.numel() for value in start.weights().values())
        return _validation(found.fitted), Added(self._auc(logits[self.split.test]), seconds, None, size)

    def _auc(self, logits: NDArray[np.float64]) -> float:
        found = auc(self.rows.label[self.split.test], logits)
        return float("nan") if found is None else found


def left_out(data: PreparedDataset, rows: pl.Expr, config: Mapping[str, Any], seed: int, folder: Path) -> Grounds:
    """Train a backbone without some rows.

    Args:
        data: all rows; the users and items of all stay in its tables.
        rows: chooses the rows that it does not see, by columns of the rows, their users and their items.
        config: keys of a TrainingConfig; stage 1 alone is trained.
        seed: of everything.
        folder: for what is written.
    """
    whole = data.interactions.join(data.users, on="user_id", maintain_order="left")
    away = whole.join(data.items, on="item_id", maintain_order="left").select(rows).to_series()
    seen = data.interactions.filter(~away)
    there = set(seen["domain_id"].unique().to_list())
    divisions = tuple(
        one.model_copy(update={"domains": tuple(name for name in one.domains if name in there)}) if one.natural else one
        for one in data.spec.divisions
    )
    spec = data.spec.model_copy(update={"divisions": divisions})
    PreparedDataset(spec, seen, data.users, data.items).write(folder / "data")
    settings = {**config, "data": folder / "data", "seed": seed, "threads": 1}
    run = Run(TrainingConfig.model_validate(settings), folder / "run", SilentMeter())
    backbone = run.pretrained().backbone
    trained = TrainedRun(run.dataset, run.rows, run.split.train, run.split.test, backbone, (), {}, {}, {})
    export_bundle(trained, folder / "bundle")
    bundle = read_bundle(folder / "bundle")
    vocabulary = Vocabulary.from_tensors(bundle.tensors("vocabulary"), bundle.manifest.fields)
    ground = Ground(NAME, bundle, vocabulary, {side: bundled_table(bundle, side) for side in SIDES})
    size = sum(path.stat().st_size for path in (folder / "bundle").iterdir())
    return Grounds(
        bundle, size, ground, new_rows(data, away, bundle, seed), NewcomerConfig(seed=seed, threads=1), folder
    )


def new_rows(data: PreparedDataset, chosen: pl.Series, bundle: Bundle, seed: int) -> NewRows:
    """The rows that were left out, split 8:1:1 at random."""
    mine = data.interactions.filter(chosen)
    part = np.random.default_rng([seed, 3]).choice(PARTS, len(mine), p=(0.8, 0.1, 0.1))
    context = [field.name for field in bundle.manifest.fields if field.of == "context"]
    frame = mine.select(pl.col("user_id", "item_id").cast(pl.String), *context).with_columns(split=pl.Series(part))
    return NewRows(frame, mine["label"].to_numpy().astype(np.float32))


def extended(encoded: EncodedNewcomer, backbone: Backbone) -> tuple[RowTensors, Backbone]:
    """The rows and the network with a row in the tables of the id fields for each id that has none.

    The new rows start as row 0, which such an id is scored on.
    """
    dataset, weights = encoded.dataset, backbone.weights()
    sparse = dataset.sparse.copy()
    columns = [field.name for field in dataset.fields if field.kind == "sparse"]
    sizes: dict[str, int] = {}
    for side in encoded.sides.values():
        for field in (one for one in dataset.fields if one.id and one.name in side.columns.arrays):
            own = side.columns.arrays[field.name].astype(np.int64)
            unseen = own == 0
            table = weights[f"embedding.{field.name}"]
            own[unseen] = len(table) + np.arange(np.count_nonzero(unseen))
            sparse[:, columns.index(field.name)] = own[side.entity]
            weights[f"embedding.{field.name}"] = torch.cat([table, table[:1].repeat(int(unseen.sum()), 1)])
            sizes[field.name] = len(weights[f"embedding.{field.name}"])
    shape = replace(
        backbone.shape,
        fields=tuple(replace(field, rows=sizes.get(field.name, field.rows)) for field in backbone.shape.fields),
    )
    network = Backbone(shape)
    network.load_weights(weights)
    return RowTensors(replace(dataset, sparse=sparse)), network.freeze()


def _place(rows: RowTensors) -> Place:
    return Place(0, 0, rows.divisions[0].name, rows.divisions[0].domains[0])


def _fresh(memory: Memory) -> None:
    """Forget an earlier call's checkpoint: what is timed is a whole training."""
    (memory.state.folder / f"{memory.name}.safetensors").unlink(missing_ok=True)


def _validation(fitted: Fitted) -> float:
    return float("-inf") if fitted.auc is None else fitted.auc
