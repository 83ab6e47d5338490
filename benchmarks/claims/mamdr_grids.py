"""What each method of the long tables is tuned over: two step sizes, each with up to two values of a thing of its own.

What is alike for all, and why, stands in docs/decisions/2026-11-21-how-mamdr-is-tuned.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.claims.mamdr_contest import Method

FRAMEWORKS = ("mix", "alternate", "finetune", "weighted", "pcgrad", "maml", "reptile", "mldg", "dn", "dr", "mamdr")
NETWORKS = ("shared_bottom", "mmoe", "cgc", "ple", "star", "hamur", "plate")
JOINT = ("weighted", "pcgrad", "maml", "mldg")
"""Whose every step has rows of all domains; they take as many steps an epoch as the others, of as many rows."""
RATES = (1e-3, 3e-3)
"""Step sizes of the inner Adam."""

Config = dict[str, Any]


def framework(name: str, values: int = 2, **common: Any) -> Method:
    """A framework on the network that `common` names, the plain one by default.

    Args:
        name: of the framework.
        values: how many of the thing of its own are tried, 1 or 2.
        common: keys of every configuration.
    """
    joint = {"joint_steps": "all"} if name in JOINT else {}
    choices = [{"framework": name, **joint, **common, **choice} for choice in _choices(name)[:values]]
    return Method(name, _grid(choices))


def network(name: str, values: int = 2, **settings: Any) -> Method:
    """A multi-domain network, its batches mixed of all domains' rows as in its paper, tuned as Mix is."""
    common = {"framework": "mix", "structure": name, "settings": settings}
    return Method(name, _grid([{**common, **choice} for choice in _choices("mix")[:values]]))


def _grid(choices: Sequence[Mapping[str, Any]]) -> tuple[Config, ...]:
    """Each of the step sizes with each of the choices."""
    return tuple({**one, "inner": {**one.get("inner", {}), "lr": lr}} for lr in RATES for one in choices)


def _choices(name: str) -> list[Config]:
    """Two values of what a framework has besides its step size, the usual one first.

    What has nothing else may keep its Adam for the whole training, as is usual, or forget it with each epoch, as an
    inner loop of methods.md 3 does. Alternate's epoch is that inner loop, so it begins with forgetting: its grid holds
    Domain Negotiation with beta = 1, also where one value is tried.
    """
    if name == "alternate":
        return [{"inner": {"reset": reset}} for reset in ("loop", "never")]
    if name in ("mix", "weighted", "pcgrad"):
        return [{"inner": {"reset": reset}} for reset in ("never", "loop")]
    if name in ("maml", "mldg"):
        return [{"look_ahead": {"lr": lr}, "inner": {"reset": "never"}} for lr in (0.01, 0.1)]
    if name == "finetune":
        return [{"finetune": {"optimizer": "adam", "lr": lr, "epochs": 10}} for lr in (1e-4, 1e-3)]
    if name in ("reptile", "dn"):
        return [{"outer": {"lr": beta}} for beta in (0.5, 0.2)]
    gammas = [{"regularization": {"others": 3, "gamma": gamma}} for gamma in (0.1, 0.5)]
    return gammas if name == "dr" else [{"outer": {"lr": 0.5}, **one} for one in gammas]
