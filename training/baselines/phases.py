"""Trains a structure in its phases: one for most baselines, pre-training and prompt tuning for PLATE."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from training.baselines.baseline import Baseline
from training.checkpoint import Memory
from training.frameworks.fit import Fitted, fit
from training.frameworks.framework import Framework
from training.frameworks.setting import Setting
from training.frameworks.state import State
from training.progress import Meter


def fit_phases(
    setting: Setting,
    framework_of: Callable[[Setting], Framework],
    memories: Mapping[str, Memory],
    meter: Meter,
) -> Fitted:
    """Train a baseline in all of its phases; each starts from what the one before selected.

    Args:
        setting: network, rows, configuration. The network holds the last phase's start afterwards.
        framework_of: builds the framework of every phase.
        memories: of each phase's checkpoint, by its name.
        meter: where progress goes.

    Returns:
        How the last phase went; its state is what was learned.

    Raises:
        TypeError: the network is not a baseline.
        StateMismatch: a checkpoint is of other settings.
    """
    baseline = setting.structure
    if not isinstance(baseline, Baseline):
        raise TypeError(f"{type(baseline).__name__} has no phases; `fit` trains it")
    fitted: Fitted | None = None
    for phase in baseline.phases:
        if fitted is not None:
            adopt(baseline, fitted.state)
        baseline.enter(phase)
        own = replace(setting, stream=setting.stream.of(phase))
        fitted = fit(own, framework_of, memories[phase], meter)
    assert fitted is not None  # every baseline has a phase
    return fitted


@torch.no_grad()
def adopt(baseline: Baseline, state: State) -> None:
    """Let a baseline's own parameters and moments become theta_S of a state."""
    for name, parameter in baseline.named_parameters():
        parameter.copy_(state.shared[name])
    baseline.load_moments(state.moments)
