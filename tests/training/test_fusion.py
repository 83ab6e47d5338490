"""Stage 3 and the choice among its candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from network.fusion import Mode
from tests.training.small import small_config
from training.artifacts_of import Choice
from training.batches import logits_of
from training.progress import SilentMeter
from training.selection import choose
from training.stages import Run

AUCS: Mapping[Choice, float | None] = {"backbone": 0.70, "single": 0.71, "avg": 0.72, "attention": 0.73, "add": 0.74}


def test_stage_leaves_the_adapters_alone(small_world: Path, tmp_path: Path) -> None:
    """Law: stage 3 trains query, key and the tuples' norms; no bit of an adapter moves."""
    run = Run(small_config(small_world), tmp_path / "run", SilentMeter())
    pretrained = run.pretrained()
    adapters = run.adapters(pretrained)
    before = {a.place.name: a.adapter.tensors() for a in adapters}
    _, fusions = run.fusions(pretrained, adapters)
    assert [fusion.mode for fusion in fusions] == ["attention", "avg", "add"]
    for trained in adapters:
        for name, value in trained.adapter.tensors().items():
            assert torch.equal(value, before[trained.place.name][name])


def test_single_is_the_natural_adapter(opened: Run) -> None:
    """Law: mode single scores a row with its natural domain's adapter alone."""
    pretrained = opened.pretrained()
    adapters = opened.adapters(pretrained)
    trainer, _ = opened.fusions(pretrained, adapters)
    rows = opened.rows.of_domain(opened.positions.test, 0, 1)
    natural = next(a.adapter for a in adapters if a.place.name == "theme-02")
    expected = logits_of(rows, lambda part: pretrained.backbone(opened.rows.batch(part), natural))
    assert trainer.logits(trainer.untrained("single").eval(), rows) == pytest.approx(expected, abs=1e-5)


def test_zero_key_starts_as_the_average(opened: Run) -> None:
    """Law: with WK = 0 the attention weighs all divisions alike, so it starts as avg."""
    pretrained = opened.pretrained()
    trainer, _ = opened.fusions(pretrained, opened.adapters(pretrained))
    zero = replace(trainer, config=trainer.config.model_copy(update={"zero_key": True}))
    test = opened.positions.test
    attention, average = (zero.logits(zero.untrained(mode).eval(), test) for mode in ("attention", "avg"))
    assert attention == pytest.approx(average, abs=1e-5)


def test_pair_rows_count_the_rows_that_a_norm_serves(opened: Run) -> None:
    """Law: every pair with norms of its own has at least the rows asked for, and all rows of frequent pairs count."""
    pretrained = opened.pretrained()
    _, fusions = opened.fusions(pretrained, opened.adapters(pretrained))
    domains = opened.rows.domains[opened.positions.train]
    for fusion in fusions:
        assert set(fusion.pair_rows) == {domains for domains, _ in fusion.tower.own_norms()}
        for pair, n in fusion.pair_rows.items():
            assert n == int((domains == torch.tensor(pair)).all(dim=1).sum())
            assert n >= opened.config.fusion.min_tuple_rows


def test_kept_epoch_validates_as_recorded(opened: Run) -> None:
    """Law: each mode ends with the weights of its best epoch."""
    pretrained = opened.pretrained()
    trainer, fusions = opened.fusions(pretrained, opened.adapters(pretrained))
    stop = opened.positions.stop
    for fusion in fusions:
        assert opened.rows.auc(stop, trainer.logits(fusion.tower, stop)) == fusion.fitted.auc


def test_batch_size_of_scoring_changes_nothing(opened: Run) -> None:
    """Law: a row's logit does not depend on which rows are scored with it."""
    pretrained = opened.pretrained()
    trainer, fusions = opened.fusions(pretrained, opened.adapters(pretrained))
    test = opened.positions.test
    whole = trainer.logits(fusions[0].tower, test)
    parts = np.concatenate([trainer.logits(fusions[0].tower, part) for part in test.split(7)])
    assert parts == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize(
    ("mode", "chosen"), [("attention", "attention"), ("avg", "avg"), ("add", "add"), ("single", "single")]
)
def test_best_candidate_is_chosen(mode: Mode, chosen: Choice) -> None:
    """Law: the best pooled validation AUC wins, among the candidates of the mode that is asked for."""
    assert choose(mode, "best", AUCS).chosen == chosen


def test_backbone_wins_when_nothing_is_better() -> None:
    """Law: an adapter must be better than the backbone to be served; equal is not."""
    flat: dict[Choice, float | None] = dict.fromkeys(AUCS, 0.7)
    assert choose("attention", "best", flat).chosen == "backbone"
    assert choose("attention", "best", {**flat, "avg": 0.70001}).chosen == "avg"


def test_undefined_auc_is_never_chosen() -> None:
    """Law: without an AUC a candidate is not chosen; without any the backbone is."""
    nothing: dict[Choice, float | None] = dict.fromkeys(AUCS)
    assert choose("attention", "best", nothing).chosen == "backbone"
    assert choose("attention", "best", {**AUCS, "attention": None}).chosen == "avg"


def test_last_epoch_takes_the_mode_as_it_is() -> None:
    """Law: `last_epoch` asks no validation."""
    assert choose("attention", "last_epoch", {**AUCS, "attention": 0.1}).chosen == "attention"
