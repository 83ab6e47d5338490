"""What each method of the long tables is tuned over: at most four configurations each, alike in number of trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.claims.mamdr_contest import Method

FRAMEWORKS = ("mix", "alternate", "finetune", "weighted", "pcgrad", "maml", "reptile", "mldg", "dn", "dr", "mamdr")
NETWORKS = ("shared_bottom", "mmoe", "cgc", "ple", "star", "hamur", "plate")
RATES = (1e-3, 3e-3)
"""Step sizes of the inner Adam."""

Config = dict[str, Any]


def grid(choices: Sequence[Mapping[str, Any]], **inner: Any) -> tuple[Config, ...]:
    """Configurations: each of the inner step sizes with each of the choices; `inner` are other keys of the steps."""
    return tuple({**choice, "inner": {"lr": lr, **inner}} for lr in RATES for choice in choices)


def plain_grid() -> tuple[Config, ...]:
    """Configurations of what has nothing but its steps: with weight decay and without. Adam is never reset."""
    return tuple({"inner": {"lr": lr, "reset": "never", "weight_decay": w}} for lr in RATES for w in (0.0, 1e-4))


def framework(name: str, **common: Any) -> Method:
    """A framework on the network that `common` names, the plain one by default.

    Two step sizes each; and two of what the framework has besides: the outer step, gamma, the look-ahead, the step size
    of finetuning; a weight decay where it has nothing.
    """
    return Method(name, tuple({"framework": name, **common, **config} for config in _grid_of(name)))


def network(name: str, **settings: Any) -> Method:
    """A multi-domain network, its batches mixed of all domains' rows as in its paper."""
    common = {"framework": "mix", "structure": name, "settings": settings}
    return Method(name, tuple({**common, **config} for config in plain_grid()))


def _grid_of(name: str) -> tuple[Config, ...]:
    if name in ("mix", "alternate", "weighted", "pcgrad"):
        return plain_grid()
    if name == "finetune":
        rates = [{"finetune": {"optimizer": "adam", "lr": lr, "epochs": 10}} for lr in (1e-4, 1e-3)]
        return grid(rates, reset="never")
    if name in ("maml", "mldg"):
        return grid([{"look_ahead": {"lr": lr}} for lr in (0.01, 0.1)])
    if name in ("reptile", "dn"):
        return grid([{"outer": {"lr": beta}} for beta in (0.2, 0.5)])
    gamma = [{"regularization": {"others": 3, "gamma": gamma}} for gamma in (0.1, 0.5)]
    return grid(gamma) if name == "dr" else grid([{"outer": {"lr": 0.5}, **each} for each in gamma])
