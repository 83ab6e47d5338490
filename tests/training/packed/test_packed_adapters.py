"""Stage 2 in packs: the same adapters as one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.packed.scene import STOP, TRAIN, alone, memories, scene, schedule
from training.adapters import AdapterTrainer, TrainedAdapter, places
from training.batches import logits_of
from training.errors import ConfigError, StateMismatch
from training.packed.adapters import PackedAdapters
from training.packed.config import PackedConfig

SMALL = PackedConfig(domains=6)


def records(trained: TrainedAdapter, key: str) -> list[Any]:
    return [record[key] for record in trained.fitted.history]


def assert_same(packed: list[TrainedAdapter], one_by_one: list[TrainedAdapter], tolerance: float) -> None:
    assert [t.place for t in packed] == [t.place for t in one_by_one]
    for mine, other in zip(packed, one_by_one, strict=True):
        assert mine.rows == other.rows
        assert mine.fitted.epoch == other.fitted.epoch
        assert records(mine, "epoch") == records(other, "epoch")
        assert records(mine, "auc") == records(other, "auc")
        assert records(mine, "loss")[1:] == pytest.approx(records(other, "loss")[1:], abs=tolerance)
        expected = other.adapter.tensors()
        for name, value in mine.adapter.tensors().items():
            np.testing.assert_allclose(value, expected[name], atol=tolerance, rtol=0, err_msg=f"{mine.place} {name}")


BRIEF = {"select": "last_epoch", "adapters": schedule(epochs=1).model_dump()}
VARIANTS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "last epoch, no dropout, more batches": {
        "select": "last_epoch",
        "adapters": schedule(dropout=0.0, min_batches=3, epochs=2).model_dump(),
    },
    "frozen moments, weight decay": {
        "adapter": {"ranks": [2, 3], "moments": "frozen"},
        "adapters": schedule(weight_decay=1e-2).model_dump(),
    },
    "paper's moments, a module left out": {
        "adapter": {"ranks": [2, 2], "moments": "paper", "target_modules": ["tower.1"]}
    },
    "dcn_v2": {"backbone": {"width": 4, "tower": [9, 7], "kind": "dcn_v2", "cross_layers": 1}, **BRIEF},
    "neurfm": {"backbone": {"width": 4, "tower": [8, 6], "kind": "neurfm"}, **BRIEF},
    "autoint without norms": {
        "backbone": {"width": 2, "tower": [6], "kind": "autoint", "norm": False, "attention_layers": 1},
        "adapter": {"ranks": [2]},
        **BRIEF,
    },
}


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_pack_equals_each_domain_alone(small_world: Path, tmp_path: Path, variant: str) -> None:
    """Law: losses, AUCs, the epoch kept and every tensor are those of training the domain alone, to 1e-7 in float64."""
    trainer = scene(small_world, tmp_path / "run", **VARIANTS[variant])
    one_by_one = alone(trainer, tmp_path / "alone")
    packed = PackedAdapters(trainer, SMALL).every(memories(tmp_path / "packed"))
    assert_same(packed, one_by_one, 1e-7)


@pytest.mark.usefixtures("in_float64")
def test_weight_decay_is_each_domains_own(small_world: Path, tmp_path: Path) -> None:
    """Law: with weight decay and batch moments losses agree to 1e-12, and all tensors but those that nothing fixes.

    `shift`, and the running mean that follows it, move by rounding alone there: see `schedule`.
    """
    decaying = schedule(weight_decay=1e-2, epochs=2).model_dump()
    trainer = scene(small_world, tmp_path / "run", select="last_epoch", adapters=decaying)
    one_by_one = alone(trainer, tmp_path / "alone")
    for mine, other in zip(
        PackedAdapters(trainer, SMALL).every(memories(tmp_path / "packed")), one_by_one, strict=True
    ):
        assert records(mine, "loss")[1:] == pytest.approx(records(other, "loss")[1:], abs=1e-12)
        expected = other.adapter.tensors()
        for name, value in mine.adapter.tensors().items():
            if not name.endswith((".shift", ".mean")):
                np.testing.assert_allclose(value, expected[name], atol=1e-7, rtol=0, err_msg=f"{mine.place} {name}")


@pytest.mark.usefixtures("in_float64")
def test_domains_of_a_pack_stop_at_their_own_epochs(small_world: Path, tmp_path: Path) -> None:
    """Law: a pack goes on without the domains that are over; the sizes of the scene are the ones asked for."""
    trainer = scene(small_world, tmp_path / "run")
    packed = PackedAdapters(trainer, PackedConfig()).every(memories(tmp_path / "packed"))
    themes = [trained for trained in packed if trained.place.division == 0]
    assert [trained.rows for trained in themes] == list(TRAIN)
    assert len({len(trained.fitted.history) for trained in themes}) >= 3
    assert len({trained.fitted.epoch for trained in themes}) >= 3
    nothing = themes[TRAIN.index(0)], themes[STOP.index(0)], themes[STOP.index(1)]
    assert [(len(t.fitted.history), t.fitted.epoch) for t in nothing] == [(1, 0)] * 3


def test_domains_without_rows_make_a_pack(small_world: Path, tmp_path: Path) -> None:
    """Law: a pack in which nobody has training rows gives untrained adapters, which are the backbone."""
    trainer = scene(small_world, tmp_path / "run")
    nobody = replace(trainer, train=trainer.train[:0])
    for trained in PackedAdapters(nobody, PackedConfig()).every(memories(tmp_path / "packed")):
        assert (trained.rows, trained.fitted.epoch, len(trained.fitted.history)) == (0, 0, 1)
        untrained = trainer.untrained(trained.place).tensors()
        assert all(value.equal(untrained[name]) for name, value in trained.adapter.tensors().items())


def test_floats_agree_in_what_they_score(small_world: Path, tmp_path: Path) -> None:
    """Law: in float32 losses are those of training alone to 1e-4, logits in eval mode to 2e-2.

    What rounding makes of `shift` (see `schedule`) is a whole step there, which running means follow after a while.
    """
    slow = schedule(epochs=2, lr=5e-4).model_dump()
    trainer = scene(small_world, tmp_path / "run", select="last_epoch", adapters=slow)
    one_by_one = alone(trainer, tmp_path / "alone")
    packed = PackedAdapters(trainer, SMALL).every(memories(tmp_path / "packed"))
    for mine, other in zip(packed, one_by_one, strict=True):
        assert records(mine, "loss")[1:] == pytest.approx(records(other, "loss")[1:], abs=1e-4)
        np.testing.assert_allclose(logits(trainer, mine), logits(trainer, other), atol=2e-2)


def logits(trainer: AdapterTrainer, trained: TrainedAdapter) -> Any:
    rows = trainer.rows.of_domain(trainer.train, trained.place.division, trained.place.domain)
    return logits_of(rows, lambda part: trainer.backbone(trainer.rows.batch(part), trained.adapter))


def test_finished_packs_are_not_trained_again(small_world: Path, tmp_path: Path) -> None:
    """Law: shares trained apart, then read together, are the whole run bit for bit; a read pack is not trained."""
    trainer = scene(small_world, tmp_path / "run", adapters=schedule(epochs=1).model_dump())
    whole = PackedAdapters(trainer, SMALL)
    kept = memories(tmp_path / "packed")
    assert len(whole.plan.packs) == 3
    assert [task.name for task in whole.unfinished(kept)] == ["packed/00001", "packed/00002", "packed/00003"]
    first, second = (whole.every(kept, (part, 2)) for part in (1, 2))
    assert not list(whole.unfinished(kept))
    assert {t.place for t in first} | {t.place for t in second} == set(places(trainer.rows))
    hopeless = PackedAdapters(replace(trainer, schedule=schedule(epochs=1, lr=9.0)), SMALL)
    again = {trained.place: trained for trained in hopeless.every(kept)}
    for trained in (*first, *second):
        assert again[trained.place].fitted == trained.fitted
        for name, value in again[trained.place].adapter.tensors().items():
            assert value.equal(trained.adapter.tensors()[name]), name


def test_pack_of_other_domains_is_refused(small_world: Path, tmp_path: Path) -> None:
    """Law: a checkpoint of other packs is named, not taken for this one's."""
    trainer = scene(small_world, tmp_path / "run", adapters=schedule(epochs=1).model_dump())
    kept = memories(tmp_path / "packed")
    PackedAdapters(trainer, PackedConfig(domains=7)).every(kept)
    with pytest.raises(StateMismatch, match="packed/00001"):
        PackedAdapters(trainer, SMALL).every(kept)


def test_no_such_share_is_refused(small_world: Path, tmp_path: Path) -> None:
    """Law: a share outside 1..n is an error that names what to give."""
    packed = PackedAdapters(scene(small_world, tmp_path / "run"), SMALL)
    for part, parts in ((0, 2), (3, 2), (1, 0)):
        with pytest.raises(ConfigError, match="no share"):
            packed.plan.share(part, parts)
