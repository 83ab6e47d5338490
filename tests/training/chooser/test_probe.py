"""The probe of one division, row by row."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from features.fields import Division
from training.adapters import AdapterTrainer, TrainedAdapter
from training.batches import RowTensors
from training.checkpoint import Memory, StateFolder
from training.chooser.probe import Probe
from training.packed.adapters import PackedAdapters
from training.packed.config import PackedConfig
from training.packed.packer import MemoryOf
from training.progress import SilentMeter
from training.seeds import Stream
from training.stages import Run

DIVISION = Division(name="thirds", natural=False, of="user", field="x", rule="value", domains=("t-a", "t-b", "t-c"))
STREAM = Stream(3, ("test",))


Column = NDArray[np.int32]


def binary_entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def probe_of(run: Run, train: int, judged: int, packed: PackedConfig | None = None) -> Probe:
    """A probe of one epoch on the run's backbone, on its first training and `stop` rows."""
    return Probe(
        run.pretrained().backbone,
        run.dataset,
        run.positions.train[:train],
        run.positions.stop[:judged],
        run.config.adapter,
        run.config.adapters.model_copy(update={"epochs": 1}),
        packed or PackedConfig(),
        SilentMeter(),
    )


def memories(folder: Path) -> MemoryOf:
    return lambda name, content: Memory(StateFolder(folder), name, content)


def adapters_of(probe: Probe, column: Column, folder: Path) -> dict[int, TrainedAdapter]:
    """The adapters that a probe left in its folder, by domain."""
    rows = RowTensors(replace(probe.dataset, divisions=(DIVISION,), division={DIVISION.name: column}))
    nothing = probe.judged[:0]
    trainer = AdapterTrainer(
        probe.backbone, rows, probe.train, nothing, probe.adapter, probe.schedule, "last_epoch", STREAM, SilentMeter()
    )
    return {each.place.domain: each for each in PackedAdapters(trainer, probe.packed).each(memories(folder))}


def test_probe_scores_every_row_by_every_domain(opened: Run, tmp_path: Path) -> None:
    """Law: own, others and divergence are what a loop over rows and domains finds; outside it is the backbone's loss.

    The domains' sizes rise, so that packs do not come in the order of the domains.
    """
    probe = probe_of(opened, 3_000, 40, PackedConfig(domains=2))
    column = np.digitize(opened.dataset.user % 10, [1, 3, 6]).astype(np.int32) - 1
    found = probe.run(DIVISION, column, STREAM, memories(tmp_path))
    adapters = adapters_of(probe, column, tmp_path)
    assert sorted(adapters) == [0, 1, 2]
    assert set(column[probe.judged.numpy()].tolist()) == {-1, 0, 1, 2}
    total = sum(each.rows for each in adapters.values())
    weight = {d: each.rows / total for d, each in adapters.items()}
    for i, position in enumerate(probe.judged.tolist()):
        batch, label = opened.rows.batch(torch.tensor([position])), float(opened.rows.label[position])
        logits = {d: probe.backbone(batch, each.adapter) for d, each in adapters.items()}
        p = {d: float(torch.sigmoid(value.double())) for d, value in logits.items()}
        plain = float(torch.sigmoid(probe.backbone(batch).double()))
        loss = {d: -math.log(value if label else 1 - value) for d, value in {**p, -1: plain}.items()}
        mine = int(column[position])
        rest = [d for d in p if d != mine] if mine >= 0 else []
        others = sum(weight[d] * loss[d] for d in rest) / sum(weight[d] for d in rest) if rest else loss[mine]
        mixed = sum(weight[d] * p[d] for d in p)
        apart = binary_entropy(mixed) - sum(weight[d] * binary_entropy(p[d]) for d in p)
        scored = [found.own[i], found.others[i], found.divergence[i], found.advantage[i], probe.backbone_loss[i]]
        expected = [loss[mine], others, apart, others - loss[mine], loss[-1]]
        assert scored == pytest.approx(expected, rel=1e-4, abs=2e-6)
        assert found.inside[i] == (mine >= 0)


def test_judged_rows_decide_nothing(opened: Run, tmp_path: Path) -> None:
    """Law: adapters do not depend on which rows are judged: a row has the same losses in other company."""
    column = (opened.dataset.user % 3).astype(np.int32)
    few, many = (
        probe_of(opened, 2_000, judged).run(DIVISION, column, STREAM, memories(tmp_path / str(judged)))
        for judged in (10, 200)
    )
    np.testing.assert_allclose(few.own, many.own[:10], rtol=0, atol=1e-6)
    np.testing.assert_allclose(few.others, many.others[:10], rtol=0, atol=1e-6)


def test_domain_without_others_has_no_advantage(opened: Run, tmp_path: Path) -> None:
    """Law: where all training rows lie in one domain there is nothing to compare with, and nothing to disagree."""
    column = np.zeros(len(opened.dataset.label), np.int32)
    found = probe_of(opened, 500, 20).run(DIVISION, column, STREAM, memories(tmp_path))
    np.testing.assert_array_equal(found.advantage, np.zeros(20))
    np.testing.assert_allclose(found.divergence, np.zeros(20), atol=1e-12)
