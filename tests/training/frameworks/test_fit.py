"""Selection, patience, finetuning, and trainings that were stopped and went on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.frameworks.settings import SmallData, differing
from training.checkpoint import Memory, Record, Saved, StateFolder
from training.errors import StateMismatch
from training.frameworks.config import FrameworkName
from training.frameworks.finetune import finetune
from training.frameworks.fit import Fit, fit
from training.frameworks.newcomer import fit_newcomer
from training.frameworks.scoring import domain_aucs, domain_logits, mean_auc
from training.frameworks.setting import Setting
from training.frameworks.state import State
from training.frameworks.structure import TABLE
from training.frameworks.table import FRAMEWORKS
from training.progress import Advance, SilentMeter

Tensors = dict[str, torch.Tensor]


class KilledAfter(Memory):
    """Saves as ever, then dies as a process would: after some number of saves nothing more happens."""

    def save(self, tensors: Any, record: Record) -> None:
        super().save(tensors, record)
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    def load(self) -> Saved | None:
        return super().load()


def memory(folder: Path, name: str = "mamdr", **identity: Any) -> Memory:
    return Memory(StateFolder(folder), name, identity)


def scripted(aucs: list[float | None], patience: int, tmp_path: Path) -> tuple[int, int, float]:
    """Fit a framework whose epoch e leaves theta = e, judged by a script; return epochs run, kept epoch, theta kept."""

    class Counting:
        def start(self) -> State:
            return State({"w": torch.zeros(1)})

        def epoch(self, state: State, number: int) -> float:
            state.shared["w"] += 1
            return 0.0

    def judge(state: State) -> list[float | None]:
        return [aucs[int(state.shared["w"]) - 1], None]

    fitted = Fit(Counting(), judge, len(aucs), patience, memory(tmp_path), SilentMeter()).run()
    return len(fitted.history), fitted.epoch, float(fitted.state.shared["w"])


def test_the_best_mean_is_kept_and_patience_ends_the_rest(tmp_path: Path) -> None:
    """Law: training ends `patience` epochs after the best, whose state is given; the earlier of equals stays."""
    assert scripted([0.5, 0.7, 0.6, 0.7, 0.6, 0.9], 3, tmp_path / "a") == (5, 2, 2.0)
    assert scripted([0.5, 0.6, 0.7], 3, tmp_path / "b") == (3, 3, 3.0)
    assert scripted([None, None, None], 3, tmp_path / "c") == (3, 3, 3.0)


def test_domains_without_an_auc_are_left_out_of_the_mean() -> None:
    """Law: the mean is unweighted, over the domains that have an AUC."""
    assert mean_auc([0.6, None, 0.8]) == pytest.approx(0.7)
    assert mean_auc([None]) is None


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mamdr", {"embeddings": "deltas", "outer": {"optimizer": "adam", "lr": 0.01}}),
        ("mamdr", {"preset": "parity", "finetune": {"epochs": 0}}),
        ("weighted", {"inner": {"reset": "never"}}),
        ("pcgrad", {}),
        ("reptile", {"outer": {"optimizer": "adagrad"}}),
    ],
)
def test_a_training_that_went_on_is_one_that_was_never_stopped(
    small_data: SmallData, tmp_path: Path, name: FrameworkName, changes: dict[str, Any]
) -> None:
    """Law: killed after an epoch and resumed, a training ends with the same bits: theta_S, theta_i, history."""

    def setting() -> Setting:
        structure = small_data.structure(dropout=0.2, norm=name == "weighted")
        return small_data.setting(structure, framework=name, epochs=4, patience=4, rows=80, **changes)

    whole = fit(setting(), FRAMEWORKS[name], memory(tmp_path / "whole"), SilentMeter())
    broken = KilledAfter(StateFolder(tmp_path / "broken"), "mamdr", {})
    with pytest.raises(KeyboardInterrupt):
        fit(setting(), FRAMEWORKS[name], broken, SilentMeter())
    resumed = fit(setting(), FRAMEWORKS[name], memory(tmp_path / "broken"), SilentMeter())
    assert not differing(whole.state.tensors(), resumed.state.tensors())
    assert [entry["aucs"] for entry in whole.history] == [entry["aucs"] for entry in resumed.history]
    assert len(whole.history) == 4
    again = fit(setting(), FRAMEWORKS[name], memory(tmp_path / "whole"), SilentMeter())
    assert not differing(whole.state.learned(), again.state.learned())


def test_a_checkpoint_of_other_settings_is_refused(small_data: SmallData, tmp_path: Path) -> None:
    """Law: what was trained with other settings is never gone on with; the key is named."""
    setting = small_data.setting(epochs=1, rows=60)
    fit(setting, FRAMEWORKS["dn"], memory(tmp_path, batch_rows=64), SilentMeter())
    with pytest.raises(StateMismatch, match="batch_rows was 64, is now 32"):
        fit(setting, FRAMEWORKS["dn"], memory(tmp_path, batch_rows=32), SilentMeter())


def test_scores_are_those_of_theta_s_plus_theta_i(small_data: SmallData) -> None:
    """Law: a domain is scored by theta_S + theta_i in eval mode, its rows of the table included."""
    setting = small_data.setting(
        small_data.structure(dropout=0.5), embeddings="deltas", framework="mamdr", regularization={"gamma": 1.0}
    )
    framework = FRAMEWORKS["mamdr"](setting)
    state = framework.start()
    framework.epoch(state, 1)
    rows = setting.domains.test[1]
    own = state.specifics[1]
    whole = {name: state.shared[name] + own.dense.get(name, torch.zeros(1)) for name in state.shared}
    for row, change in zip(own.ids.tolist(), own.rows, strict=True):
        whole[TABLE][row] = state.shared[TABLE][row] + change
    module = small_data.structure(dropout=0.5).eval()
    module.load_state_dict(whole, strict=False)
    with torch.no_grad():
        expected = module(setting.rows.batch(rows), setting.rows.domains[rows, 0]).double().numpy()
    assert abs(domain_logits(setting, state, 1, rows) - expected).max() < 1e-6
    assert abs(domain_logits(setting, state, 1, rows, shared=True) - expected).max() > 1e-4


def test_finetuning_changes_its_domain_alone(small_data: SmallData, tmp_path: Path) -> None:
    """Law: finetuning one domain moves its theta_i and no other's, nor theta_S; no domain gets worse on validation."""
    setting = small_data.setting(framework="mamdr", finetune={"epochs": 2, "optimizer": "adam", "lr": 0.02})
    framework = FRAMEWORKS["mamdr"](setting)
    state = framework.start()
    framework.epoch(state, 1)
    before = state.learned()
    result = finetune(setting, state, lambda name: memory(tmp_path, name), SilentMeter())
    assert not differing(state.learned(), before), "what it starts from stays"
    assert not differing(result.state.shared, state.shared)
    moved = [i for i, record in enumerate(result.records) if record["epoch"] > 0]
    assert moved
    for domain, own in result.state.specifics.items():
        assert bool(differing(own.dense, state.specifics[domain].dense)) == (domain in moved)
    aucs = [domain_aucs(setting, one, setting.domains.stop) for one in (state, result.state)]
    for first, second in zip(*aucs, strict=True):
        assert first is not None
        assert second is not None
        assert second >= first
    again = finetune(setting, state, lambda name: memory(tmp_path, name), SilentMeter())
    assert not differing(again.state.learned(), result.state.learned())


def test_a_domain_is_finetuned_the_same_alone_and_with_others(small_data: SmallData, tmp_path: Path) -> None:
    """Law: what a domain's finetuning gives depends on no other domain's."""
    setting = small_data.setting(finetune={"epochs": 1, "optimizer": "adam", "lr": 0.02})
    state = FRAMEWORKS["dn"](setting).start()
    every = finetune(setting, state, lambda name: memory(tmp_path / "every", name), SilentMeter())
    names = setting.domains.names
    alone = Setting(setting.structure, setting.rows, setting.domains.without(names[1:]), setting.config, setting.stream)
    one = finetune(alone, state, lambda name: memory(tmp_path / "alone", name), SilentMeter())
    assert set(one.state.specifics) <= {0}
    assert not differing(
        State(state.shared, specifics=one.state.specifics).learned(),
        State(state.shared, specifics={k: v for k, v in every.state.specifics.items() if k == 0}).learned(),
    )


class Barred(SilentMeter):
    """Adds up what each bar was told, and what it was announced to come to."""

    def __init__(self) -> None:
        self.bars: dict[str, tuple[int, int]] = {}

    @contextmanager
    def watch(self, name: str, rows: int) -> Iterator[Advance]:
        done = [0]

        def advance(more: int) -> None:
            done[0] += more

        yield advance
        self.bars[name] = (done[0], rows)


def test_every_training_has_a_bar(small_data: SmallData, tmp_path: Path) -> None:
    """Law: epochs, finetuning and a domain that joins are all shown, in rows; what is announced is about what comes."""
    keys: dict[str, Any] = {"epochs": 1, "patience": 9, "finetune": {"epochs": 2, "patience": 9, "lr": 1e-4}}
    setting = small_data.setting(framework="mamdr", regularization={"others": 2}, **keys)
    barred = Barred()
    fitted = fit(setting, FRAMEWORKS["mamdr"], memory(tmp_path), barred)
    finetune(setting, fitted.state, lambda name: memory(tmp_path, name), barred)
    fit_newcomer(setting, 1, fitted.state, memory(tmp_path, "newcomer"), barred)
    assert list(barred.bars) == ["mamdr", "finetune", "newcomer"]
    for done, rows in barred.bars.values():
        assert 0.8 * rows <= done <= 1.25 * rows
    assert barred.bars["finetune"][0] == barred.bars["finetune"][1]


def test_a_new_domain_is_learned_on_a_theta_s_that_stays(small_data: SmallData, tmp_path: Path) -> None:
    """Law: theta_S, trained without a domain, keeps its bits while the domain's theta_i is learned."""
    setting = small_data.setting(
        framework="mamdr", epochs=3, inner={"lr": 0.02}, regularization={"gamma": 0.5}, outer={"lr": 0.5}
    )
    without = Setting(
        setting.structure,
        setting.rows,
        setting.domains.without([setting.domains.names[2]]),
        setting.config,
        setting.stream,
    )
    learned = fit(without, FRAMEWORKS["mamdr"], memory(tmp_path, "mamdr"), SilentMeter())
    assert set(learned.state.specifics) == {0, 1}
    before = learned.state.learned()
    fitted = fit_newcomer(setting, 2, learned.state, memory(tmp_path, "newcomer"), SilentMeter())
    assert not differing(learned.state.learned(), before)
    assert not differing(fitted.state.shared, learned.state.shared)
    assert set(fitted.state.specifics) == {2}
    assert fitted.history[0]["epoch"] == 0
    assert fitted.auc == max(entry["auc"] for entry in fitted.history)
    assert any(value.any() for value in fitted.state.specifics[2].dense.values()) == (fitted.epoch > 0)
