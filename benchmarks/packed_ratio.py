"""`python -m benchmarks.packed_ratio`: adapters trained in packs against our own loop, one domain after another.

Domains are synthetic and of equal size; the backbone is random, for speed depends on shapes. Both sides start from the
same rows in memory and train the same epochs without early stopping; the one-by-one side keeps no checkpoints. Both
train once to warm up. Then they take turns, and a figure is the median over rounds of the ratio within a round. With
one thread CPU seconds are counted, as in `benchmarks.engines`. Beside the ratio stands the largest distance between the
two sides' validation AUCs.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from features.fields import Division, Field
from features.index import RawIndex
from features.rows import EncodedRows
from features.tables import FeatureTable
from features.vocabulary import Vocabulary
from network.backbone import Backbone
from training.adapters import AdapterTrainer, TrainedAdapter, places
from training.batches import RowTensors, shape_of
from training.checkpoint import Memory, Record, Saved, StateFolder
from training.config import AdapterConfig, BackboneConfig, Schedule
from training.dataset import EncodedDataset
from training.packed.adapters import PackedAdapters
from training.packed.config import PackedConfig
from training.progress import SilentMeter
from training.seeds import Stream
from training.threads import use_threads

_WIDTH, _FIELDS, _VALUES = 16, 7, 1_000  # MovieLens' input: 7 sparse fields of width 16 and one dense field


@dataclass(frozen=True)
class Setting:
    """What is trained.

    Args:
        domains: how many.
        rows: of a domain: 9 of 10 train, the rest validate.
        batch_rows: of a batch.
        epochs: of every domain.
        tower: widths of the hidden layers.
        rank: of every LoRA.
        pack: domains of a pack.
        rounds: turns of each side.
        threads: cores.
    """

    domains: int = 1_000
    rows: int = 500
    batch_rows: int = 64
    epochs: int = 2
    tower: tuple[int, ...] = (256, 128)
    rank: int = 8
    pack: int = 64
    rounds: int = 3
    threads: int = 1


class Forgetful(Memory):
    """A checkpoint that keeps nothing, so that training is measured and not the disk."""

    def save(self, tensors: Any, record: Record) -> None:
        """Keep nothing."""

    def load(self) -> Saved | None:
        """There never is anything."""
        return None


def trainer(setting: Setting) -> AdapterTrainer:
    """What trains one domain's adapter, over random rows."""
    rows = RowTensors(_dataset(setting))
    backbone = BackboneConfig(width=_WIDTH, tower=setting.tower, embedding_std=0.5)
    torch.manual_seed(0)
    network = Backbone(shape_of(_fields(), backbone, 0.0)).freeze()
    every = torch.arange(setting.domains * setting.rows)
    judged = every % 10 == 0
    schedule = Schedule(lr=1e-3, weight_decay=1e-5, batch_rows=setting.batch_rows, epochs=setting.epochs, dropout=0.2)
    config = AdapterConfig(ranks=(setting.rank,) * len(setting.tower))
    parts = every[~judged], every[judged]
    return AdapterTrainer(network, rows, *parts, config, schedule, "last_epoch", Stream(0), SilentMeter())


def run(setting: Setting) -> dict[str, Any]:
    """Measure both sides and return the figures."""
    use_threads(setting.threads)
    chosen = trainer(setting)
    packed = PackedAdapters(chosen, PackedConfig(memory_mib=4_096, domains=setting.pack))

    def in_packs() -> Sequence[TrainedAdapter]:
        return packed.every(lambda name, content: _memory(name))

    def one_by_one() -> Sequence[TrainedAdapter]:
        return chosen.every(lambda place: _memory(place.name))

    _warm(setting, chosen)
    ratios: list[float] = []
    speeds: list[tuple[float, float]] = []
    distances: list[float] = []
    for _ in range(setting.rounds):
        (ours, seconds), (theirs, others) = (_timed(work, setting.threads) for work in (in_packs, one_by_one))
        ratios.append(others / seconds)
        speeds.append((setting.domains / seconds, setting.domains / others))
        distances += [abs(difference) for difference in _differences(ours, theirs)]
    return {
        "setting": asdict(setting),
        "plan": packed.plan.line(),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "packed_domains_per_s": statistics.median(speed for speed, _ in speeds),
        "one_by_one_domains_per_s": statistics.median(speed for _, speed in speeds),
        "largest_auc_distance": max(distances, default=math.nan),  # nothing to compare is no agreement
    }


def _differences(ours: Sequence[TrainedAdapter], theirs: Sequence[TrainedAdapter]) -> list[float]:
    pairs = [(a.fitted.auc, b.fitted.auc) for a, b in zip(ours, theirs, strict=True)]
    return [a - b for a, b in pairs if a is not None and b is not None]


def _timed(work: Callable[[], Sequence[TrainedAdapter]], threads: int) -> tuple[Sequence[TrainedAdapter], float]:
    clock = time.process_time if threads == 1 else time.perf_counter
    began = clock()
    found = work()
    return found, clock() - began


def _warm(setting: Setting, chosen: AdapterTrainer) -> None:
    few = replace(chosen, schedule=chosen.schedule.model_copy(update={"epochs": 1}))
    place = next(places(few.rows))
    few.one(place, _memory(place.name))
    packed = PackedAdapters(few, PackedConfig(memory_mib=4_096, domains=setting.pack))
    pack = packed.plan.packs[0]
    packed.pack(pack, _memory("warm"))


def _memory(name: str) -> Memory:
    return Forgetful(StateFolder(Path()), name, {})


def _fields() -> tuple[Field, ...]:
    sparse = (
        Field(name=f"f{i}", kind="sparse", of="context", vocabulary_size=_VALUES, width=_WIDTH) for i in range(_FIELDS)
    )
    return (*sparse, Field(name="number", kind="dense", of="context"))


def _dataset(setting: Setting) -> EncodedDataset:
    """Random rows, labels that a domain can learn something of."""
    draw = np.random.default_rng(0)
    n = setting.domains * setting.rows
    sparse = draw.integers(0, _VALUES, (n, _FIELDS)).astype(np.int32)
    owner = np.repeat(np.arange(setting.domains, dtype=np.int32), setting.rows)
    likes = (sparse[:, 0] * 7 + owner * 13) % 10 < 5
    label: NDArray[np.float32] = (draw.random(n) < np.where(likes, 0.7, 0.3)).astype(np.float32)
    names = tuple(f"domain-{i}" for i in range(setting.domains))
    division = Division(name="theme", natural=True, of="domain", domains=names)
    empty = FeatureTable(RawIndex.from_values([]), (), EncodedRows(0, {}), {})
    return EncodedDataset(
        fields=_fields(),
        divisions=(division,),
        vocabulary=Vocabulary({}),
        users=empty,
        items=empty,
        sparse=sparse,
        dense=draw.random((n, 1), dtype=np.float32),
        multi_hot={},
        label=label,
        division={"theme": owner},
        user=np.zeros(n, np.int32),
        probability=None,
    )


def main() -> None:
    """Print the figures of one setting as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("domains", "rows", "batch_rows", "epochs", "rank", "pack", "rounds", "threads"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Setting, name))
    parser.add_argument("--tower", type=int, nargs="+", default=Setting.tower)
    given = vars(parser.parse_args())
    print(json.dumps(run(Setting(**{**given, "tower": tuple(given["tower"])})), indent=2))


if __name__ == "__main__":
    main()
