"""Averaged weights in packs: the same as one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.training.packed.scene import alone, memories, scene, schedule
from tests.training.packed.test_packed_adapters import SMALL, assert_same
from tests.training.packed.test_packed_fusion import fusion_trainer, learned, memory, packed
from tests.training.packed.test_whole import whole
from training.checkpoint import Memory, StateFolder
from training.config import FusionConfig
from training.packed.adapters import PackedAdapters
from training.packed.course import Terms
from training.packed.plan import Footprint
from training.packed.stack import lora_layout

AVERAGED = schedule(average="tail", epochs=2, lr=5e-2)


@pytest.mark.usefixtures("in_float64")
def test_pack_averages_as_each_domain_alone(small_world: Path, tmp_path: Path) -> None:
    """Law: the averages' AUCs, which of them are kept, and every tensor are those of training the domain alone, to 1e-7
    in float64; a finished pack says the same again."""
    trainer = scene(small_world, tmp_path / "run", adapters=AVERAGED.model_dump())
    one_by_one = alone(trainer, tmp_path / "alone")
    kept = memories(tmp_path / "packed")
    found = PackedAdapters(trainer, SMALL).every(kept)
    assert_same(found, one_by_one, 1e-7)
    for mine, other in zip(found, one_by_one, strict=True):
        assert mine.fitted.averaged == other.fitted.averaged
        assert mine.fitted.auc == other.fitted.auc
        assert [e.get("average_auc") for e in mine.fitted.history] == [
            e.get("average_auc") for e in other.fitted.history
        ]
    assert {trained.fitted.averaged for trained in found} == {True, False}
    again = PackedAdapters(trainer, SMALL).every(kept)
    assert [trained.fitted for trained in again] == [trained.fitted for trained in found]


@pytest.mark.usefixtures("in_float64")
def test_whole_networks_average_as_each_alone(small_world: Path, tmp_path: Path) -> None:
    """Law: the same of the baselines of a network for each domain, by their scores."""
    trainer = whole(small_world, tmp_path / "run", Terms(AVERAGED, "best"))
    found = list(trainer.each(memories(tmp_path / "packed")))
    for mine in found:
        other = trainer.one(mine.place, Memory(StateFolder(tmp_path / "alone"), mine.place.name, {}))
        assert (mine.fitted.epoch, mine.fitted.averaged) == (other.fitted.epoch, other.fitted.averaged)
        np.testing.assert_allclose(mine.logits, other.logits, atol=1e-7)
    assert any(one.fitted.averaged for one in found)


@pytest.mark.usefixtures("in_float64")
def test_packed_fusion_averages_as_the_loop_over_tuples(small_world: Path, tmp_path: Path) -> None:
    """Law: norms that a batch leaves alone count in the average as they stand, stacked or not."""
    start = scene(small_world, tmp_path / "run")
    terms = schedule(batch_rows=400, epochs=1, average="tail")
    one_by_one = fusion_trainer(start, FusionConfig(min_tuple_rows=15), terms)
    other = one_by_one.one("attention", memory(tmp_path / "alone", "attention"))
    mine = packed(one_by_one).one("attention", memory(tmp_path / "packed", "attention"))
    assert (mine.fitted.epoch, mine.fitted.averaged) == (other.fitted.epoch, other.fitted.averaged)
    assert records_of(mine.fitted.history) == pytest.approx(records_of(other.fitted.history), abs=1e-9)
    expected = learned(other)
    for name, value in learned(mine).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-7, rtol=0, err_msg=name)


def records_of(history: tuple[dict[str, float], ...]) -> list[float]:
    return [entry["average_auc"] for entry in history if "average_auc" in entry]


def test_the_average_counts_in_what_a_pack_states(small_world: Path, tmp_path: Path) -> None:
    """Law: a pack that averages is charged one more copy of what it learns, and of its moments."""
    trainer = scene(small_world, tmp_path / "run")
    layout = lora_layout(trainer.backbone.shape, (2, 2))
    plain, averaged = (
        Footprint(trainer.backbone.shape, layout, schedule(average=kind)).of(3, 10, 5) for kind in (None, "tail")
    )
    assert averaged - plain == 3 * (layout.learned_width + layout.moments_width) * 4
