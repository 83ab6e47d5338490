"""Training in packs against our own loop and against PEFT; stage 1 against loaders that read row by row."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from benchmarks import packed_ratio
from benchmarks.claims.line import Line, at_least, at_most, measured
from benchmarks.claims.multilora_peers import Rows, backbone_seconds, by_peft
from benchmarks.claims.multilora_table import not_below
from benchmarks.claims.workplace import Workplace
from benchmarks.packed_ratio import Forgetful, Setting
from network.backbone import Backbone
from training.adapters import TrainedAdapter, places
from training.checkpoint import StateFolder
from training.config import Schedule
from training.packed.adapters import PackedAdapters
from training.packed.config import PackedConfig
from training.pretrain import pretrain
from training.progress import SilentMeter
from training.seeds import Stream
from training.threads import use_threads

BOUNDS = {(256, 128): 2.5, (64, 32): 5.0}
SETTING = Setting(domains=1_000, rows=500, batch_rows=64)
QUICK = Setting(domains=24, rows=100, batch_rows=32, epochs=1, rounds=1, pack=8)
AUC_APART = 0.01
"""One pair of 50 validation rows ordered otherwise moves an AUC by 0.0016; sums are taken in another order."""
PEFT_TIMES, PEFT_DOMAINS = 10.0, 200
LOADER_TIMES, LOADER_ROWS, LOADER_BATCH = 10.0, 40_000, 4_096


def lines(work: Workplace) -> Iterator[Line]:
    """Both towers against our loop, then PEFT, then stage 1; one thread, processor time."""
    use_threads(1)
    setting = QUICK if work.quick else SETTING
    for tower, bound in BOUNDS.items():
        yield from ratio_lines(replace(setting, tower=tower, rank=8), bound)
    for tower in BOUNDS:
        yield from peft_lines(replace(setting, tower=tower), 2 if work.quick else PEFT_DOMAINS)
    yield from loader_lines(2_000 if work.quick else LOADER_ROWS)


def ratio_lines(setting: Setting, bound: float) -> Iterator[Line]:
    """Packs against one by one."""
    found = packed_ratio.run(setting)
    size = (
        f"{setting.domains:,} domains of {setting.rows} rows, batch {setting.batch_rows}, tower {list(setting.tower)}"
    )
    rates = f"{found['packed_domains_per_s']:.1f} and {found['one_by_one_domains_per_s']:.1f} domains/s"
    rounds = ", ".join(f"{each:.2f}" for each in found["ratios"])
    yield at_least(f"packed over our own loop, {size} ({rates}; rounds {rounds})", found["ratio"], bound, "x", 2)
    yield at_most("the same: largest distance of a domain's validation AUC", found["largest_auc_distance"], AUC_APART)


def peft_lines(setting: Setting, domains: int) -> Iterator[Line]:
    """Packs against PEFT over a DataLoader that gives a row at a time, of a data frame's columns and of numpy's."""
    trainer = packed_ratio.trainer(setting)
    packed = PackedAdapters(trainer, PackedConfig(memory_mib=4_096, domains=setting.pack))
    by_peft(trainer, list(islice(places(trainer.rows), 1)), Rows.by_numpy)  # once to warm up
    began = time.process_time()
    ours = packed.every(lambda name, content: _memory(name))
    rate = setting.domains / (time.process_time() - began)
    taken = list(islice(places(trainer.rows), domains))
    theirs = by_peft(trainer, taken, Rows.by_frame)
    faster = by_peft(trainer, taken[: max(domains // 4, 1)], Rows.by_numpy)
    tower, other = list(setting.tower), domains / theirs.seconds
    claim = f"packed ({rate:.1f} domains/s) over PEFT and a per-row DataLoader of pandas columns ({other:.2f})"
    yield at_least(f"{claim}, tower {tower}", rate / other, PEFT_TIMES, "x", 1)
    other = len(faster.aucs) / faster.seconds
    yield measured(f"the same over PEFT and one of numpy columns ({other:.2f})", f"{rate / other:.1f}x")
    claim = "the same: validation AUC of a domain in packs less PEFT's"
    yield not_below(claim, _aucs(ours[:domains]), theirs.aucs, AUC_APART)


def loader_lines(rows: int) -> Iterator[Line]:
    """Stage 1 against the same network and optimizer fed by a loader."""
    setting = Setting(domains=1, rows=rows, tower=(256, 128))
    trainer = packed_ratio.trainer(setting)
    schedule = Schedule(lr=1e-3, weight_decay=1e-5, batch_rows=LOADER_BATCH, epochs=1, patience=1, dropout=0.0)
    train, stop = trainer.train, trainer.stop[:64]
    own: list[float] = []
    for epochs in (1, 5):  # the first one warms up
        longer = schedule.model_copy(update={"epochs": epochs, "patience": epochs})
        began = time.process_time()
        pretrain(
            trainer.rows, train, stop, trainer.backbone.shape, longer, Stream(0), _memory("pretrain"), SilentMeter()
        )
        own.append(epochs * len(train) / (time.process_time() - began))
    read = Rows.of(trainer.rows, train)
    rates = {}
    for name, dataset in (("frame", read.by_frame()), ("numpy", read.by_numpy())):
        torch.manual_seed(0)
        seconds = backbone_seconds(Backbone(trainer.backbone.shape), dataset, schedule)
        rates[name] = len(train) / seconds
    claim = f"stage 1 ({own[-1]:,.0f} rows/s) over a Dataset of data frame columns (pandas) and a DataLoader"
    yield at_least(f"{claim} ({rates['frame']:,.0f} rows/s)", own[-1] / rates["frame"], LOADER_TIMES, "x", 1)
    yield measured("stage 1 over a Dataset of numpy columns and a DataLoader", f"{own[-1] / rates['numpy']:.1f}x")


def _aucs(trained: Sequence[TrainedAdapter]) -> list[float | None]:
    return [one.fitted.auc for one in trained]


def _memory(name: str) -> Forgetful:
    return Forgetful(StateFolder(Path()), name, {})
