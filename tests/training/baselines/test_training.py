"""Laws of baselines under the learning frameworks: they learn, phase after phase, and resume."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.frameworks.settings import SmallData
from training.baselines.baseline import Baseline
from training.baselines.phases import fit_phases
from training.baselines.table import BASELINES, build_baseline
from training.checkpoint import Memory, StateFolder
from training.frameworks.fit import Fitted
from training.frameworks.setting import Setting
from training.frameworks.structure import TABLE
from training.frameworks.table import FRAMEWORKS
from training.progress import SilentMeter
from training.seeds import Stream


def built(data: SmallData, name: str, seed: int = 0, norm: bool = True) -> Baseline:
    """A baseline over the small world's fields, its weights drawn from the seed alone."""
    with Stream(seed, ("baseline",)).ambient():
        return build_baseline(name, data.shape(norm), 3)


def trained(data: SmallData, name: str, folder: Path) -> tuple[Setting, Fitted]:
    """A baseline trained in all of its phases by Mix."""
    setting = data.setting(built(data, name), framework="mix", epochs=2)
    state = StateFolder(folder)
    memories = {phase: Memory(state, phase, {"baseline": name}) for phase in BASELINES[name].build.phases}  # type: ignore[attr-defined]
    return setting, fit_phases(setting, FRAMEWORKS["mix"], memories, SilentMeter())


@pytest.mark.parametrize(
    ("name", "framework"), [*((name, "mix") for name in BASELINES), ("shared_bottom", "mamdr"), ("hamur", "mamdr")]
)
def test_every_baseline_learns_under_a_framework(small_data: SmallData, name: str, framework: str) -> None:
    """Law: three epochs of Mix, and of MAMDR, lower the training loss; what scores stays finite."""
    config = {"framework": framework, "epochs": 3, "inner": {"lr": 0.01}, "outer": {"lr": 0.5}}
    setting = small_data.setting(built(small_data, name, norm=framework == "mix"), **config)
    learner = FRAMEWORKS[setting.config.framework](setting)
    state = learner.start()
    losses = [learner.epoch(state, number) for number in (1, 2, 3)]
    assert losses[2] < losses[0]
    assert all(bool(value.isfinite().all()) for value in state.tensors().values())


def test_plate_is_pre_trained_then_tuned(small_data: SmallData, tmp_path: Path) -> None:
    """Law: tuning keeps the selected pre-training's hidden layers, moments and table; prompts have moved."""
    setting, fitted = trained(small_data, "plate", tmp_path)
    structure = setting.structure
    for name, value in structure.named_parameters():
        learned = fitted.state.shared[name]
        assert torch.equal(learned, value) == (name == TABLE or name.startswith("hidden.")), name
    kept = {name: value for name, value in structure.moments().items() if name.startswith("hidden.")}
    assert kept
    assert all(torch.equal(fitted.state.moments[name], value) for name, value in kept.items())


@pytest.mark.parametrize("name", ["plate", "star"])
def test_phases_resume_where_they_were(small_data: SmallData, tmp_path: Path, name: str) -> None:
    """Law: a training that is asked for again gives the same tensors from its checkpoints, bit for bit."""
    _, first = trained(small_data, name, tmp_path)
    _, again = trained(small_data, name, tmp_path)
    assert again.epoch == first.epoch
    one, other = first.state.learned(), again.state.learned()
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_only_baselines_have_phases(small_data: SmallData) -> None:
    """Law: a plain structure is refused, with the function that trains it."""
    with pytest.raises(TypeError, match="`fit` trains it"):
        fit_phases(small_data.setting(), FRAMEWORKS["mix"], {}, SilentMeter())
