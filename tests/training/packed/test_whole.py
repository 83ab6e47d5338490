"""Whole networks for each domain in packs: the same scores as one by one."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from network.inputs import Kind
from network.kinds.table import KINDS
from tests.training.packed.scene import TRAIN, memories, scene, schedule
from tests.training.pictures import with_pictures
from training.checkpoint import Memory, StateFolder
from training.packed.config import PackedConfig
from training.packed.course import Terms
from training.packed.whole import WholeTrainer
from training.prepared import PreparedDataset
from training.progress import SilentMeter
from training.seeds import Stream

OTHERS: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "mlp")


def small(kind: Kind) -> dict[str, Any]:
    """A small backbone of a kind."""
    return {"width": 4, "tower": [9, 7], "kind": kind}


def with_fields(small_world: Path, kinds: tuple[str, ...]) -> PreparedDataset:
    """The small world, with its fields of some kinds alone."""
    prepared = PreparedDataset.load(small_world)
    fields = tuple(field for field in prepared.spec.fields if field.kind in kinds)
    return replace(prepared, spec=prepared.spec.model_copy(update={"fields": fields}))


def whole(data: Path, out: Path, terms: Terms, **changes: Any) -> WholeTrainer:
    found = scene(data, out, **changes)
    parts = found.train, found.stop, found.stop.flip(0)
    stream = Stream(7, ("finetune",))
    return WholeTrainer(found.backbone, found.rows, *parts, terms, stream, found.meter, PackedConfig(domains=5))


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(
    ("terms", "changes"),
    [
        (Terms(schedule(epochs=3), "best"), {}),
        (Terms(schedule(epochs=2, dropout=0.0), "last_epoch", start_counts=False), {}),
        (
            Terms(schedule(epochs=2, weight_decay=1e-2), "best", start_counts=False),
            {"backbone": {"width": 4, "tower": [9, 7], "norm": False}},
        ),
        *((Terms(schedule(epochs=2, weight_decay=1e-3), "best"), {"backbone": small(kind)}) for kind in OTHERS),
        (Terms(schedule(epochs=1), "best"), {"backbone": small("deepfm"), "fields": ("sparse",)}),
    ],
    ids=["fine-tune", "last epoch", "single, weight decay, no norms", *OTHERS, "deepfm, sparse fields alone"],
)
def test_pack_equals_each_whole_network_alone(
    small_world: Path, tmp_path: Path, terms: Terms, changes: dict[str, Any]
) -> None:
    """Law: losses, AUCs, the epoch kept and the scores are those of training the domain alone, to 1e-7 in float64."""
    kinds = changes.pop("fields", None)
    data = with_pictures(small_world) if kinds is None else with_fields(small_world, kinds)
    data.write(tmp_path / "data")
    trainer = whole(tmp_path / "data", tmp_path / "run", terms, **changes)
    assert len(trainer.plan.packs) > 1
    assert not trainer.plan.alone
    before = trainer.start.weights()
    packed = {trained.place: trained for trained in trainer.each(memories(tmp_path / "packed"))}
    assert len(packed) == len(TRAIN)
    for place, mine in packed.items():
        other = trainer.one(place, Memory(StateFolder(tmp_path / "alone"), place.name, {}))
        assert mine.fitted.epoch == other.fitted.epoch
        for own, wanted in zip(mine.fitted.history, other.fitted.history, strict=True):
            assert own["auc"] == wanted["auc"]
            assert own["loss"] == pytest.approx(wanted["loss"], abs=1e-9)
        assert mine.rows.equal(other.rows)
        np.testing.assert_allclose(mine.logits, other.logits, atol=1e-7)
    assert all(value.equal(before[name]) for name, value in trainer.start.weights().items())


def test_scores_of_a_finished_pack_are_kept(small_world: Path, tmp_path: Path) -> None:
    """Law: a finished pack is read, not trained again."""
    terms = Terms(schedule(epochs=1), "last_epoch")
    trainer = whole(small_world, tmp_path / "run", terms)
    kept = memories(tmp_path / "packed")
    first = list(trainer.each(kept))
    again = replace(trainer, terms=Terms(schedule(epochs=1, lr=5.0), "last_epoch")).each(kept)
    for mine, other in zip(again, first, strict=True):
        assert mine.place == other.place
        assert mine.fitted == other.fitted
        np.testing.assert_array_equal(mine.logits, other.logits)


class Terminal(SilentMeter):
    """A meter that cannot leave its process."""

    def __reduce__(self) -> str:
        raise TypeError("a terminal does not travel")


def test_what_travels_is_bare(small_world: Path, tmp_path: Path) -> None:
    """Law: neither the terminal nor what was looked up goes to a worker, and what goes trains the same."""
    trainer = replace(whole(small_world, tmp_path / "run", Terms(schedule(epochs=1), "best")), meter=Terminal())
    here = list(trainer.each(memories(tmp_path / "here")))  # all that is looked up once is there now
    content = pickle.dumps(trainer.bare())
    assert len(content) < 2 * len(pickle.dumps((trainer.start, trainer.rows)))
    for mine, other in zip(pickle.loads(content).each(memories(tmp_path / "there")), here, strict=True):
        np.testing.assert_array_equal(mine.logits, other.logits)


def test_lists_count(small_world: Path, tmp_path: Path) -> None:
    """Law: lists are looked up in every step, so longer ones, of the same values, are stated to take more memory."""
    terms = Terms(schedule(batch_rows=4_096, min_batches=1), "best")
    prepared = PreparedDataset.load(small_world)
    (field,) = (field for field in prepared.spec.fields if field.kind == "multi_hot")
    stated = []
    for times in (1, 10):
        items = prepared.items.with_columns(pl.concat_list([field.column] * times).alias(field.column))
        replace(prepared, items=items).write(tmp_path / f"data-{times}")
        trainer = whole(tmp_path / f"data-{times}", tmp_path / f"run-{times}", terms)
        stated.append(trainer.plan.packs[0].memory_bytes)
    assert stated[1] > stated[0] * 1.2
