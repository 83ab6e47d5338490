"""The usual spaces: what is tried of each stage, baseline and framework unless a file of spaces says otherwise.

Step size, weight decay and batch span what methods.md 2 lists of the papers, and values beyond it: a large step is
worth most together with the average of the weights (docs/search.md). Strength is not among them: it is searched for
each domain by a line search on the same rows (`strength.policy: search`), and what that search is told (`prior_rows`)
cannot be judged on the rows that it fits.
"""

from __future__ import annotations

from collections.abc import Mapping

from training.search.space import Parameter, Range, Space, Times, Values

_RATE = Range(low=1e-4, high=1e-2, log=True)
_DECAY = Values(values=(0.0, 1e-5, 3e-5, 1e-4, 1e-3))
_DROPOUT = Range(low=0.0, high=0.6)
_BATCH = Values(values=(512, 2048, 4096))
_AVERAGE = Values(values=(None, "tail"))
_OUTER = {"outer.lr": Range(low=0.05, high=1.0, log=True)}
_GAMMA = {"regularization.gamma": Range(low=0.03, high=1.0, log=True)}
_AHEAD = {"look_ahead.lr": Range(low=1e-3, high=0.3, log=True)}
_RESET = {"inner.reset": Values(values=("loop", "never"))}


def of_schedule(section: str) -> dict[str, Parameter]:
    """The space of one section of kind `training.config.Schedule`."""
    return {
        f"{section}.lr": _RATE,
        f"{section}.weight_decay": _DECAY,
        f"{section}.dropout": _DROPOUT,
        f"{section}.batch_rows": _BATCH,
        f"{section}.average": _AVERAGE,
    }


OF_STAGES: Mapping[str, Space] = {
    "pretrain": of_schedule("pretrain"),
    "adapters": {**of_schedule("adapters"), "adapter.ranks": Times(times=(0.25, 0.5, 1.0, 2.0, 4.0))},
    "fuse": of_schedule("fuse"),
    "finetune": of_schedule("whole"),
    "single": of_schedule("whole"),
}
"""By the name of a stage, or of a baseline of a network for each domain."""

_INNER: Mapping[str, Parameter] = {
    "inner.lr": _RATE,
    "inner.weight_decay": Values(values=(0.0, 1e-6, 1e-5, 1e-4)),
    "network.dropout": _DROPOUT,
    "batch_rows": Values(values=(512, 1024, 2048)),
}
_OWN: Mapping[str, Mapping[str, Parameter]] = {
    "mix": _RESET,
    "alternate": _RESET,
    "weighted": _RESET,
    "pcgrad": _RESET,
    "finetune": {"finetune.lr": Range(low=1e-5, high=1e-2, log=True)},
    "maml": _AHEAD,
    "mldg": _AHEAD,
    "reptile": _OUTER,
    "dn": _OUTER,
    "dr": _GAMMA,
    "mamdr": {**_OUTER, **_GAMMA},
}
"""What a framework has besides its inner steps."""


def of_framework(name: str) -> Space:
    """The space of a framework, or of a multi-domain network, which is trained as `mix` is."""
    return {**_INNER, **_OWN.get(name, _RESET)}
