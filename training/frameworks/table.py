"""The learning frameworks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from training.frameworks.alternate import Alternate, Mix
from training.frameworks.config import FrameworkName
from training.frameworks.framework import Framework
from training.frameworks.joint import PCGrad, Weighted
from training.frameworks.mamdr import mamdr, regularized_alternate
from training.frameworks.meta import Maml, Mldg
from training.frameworks.negotiation import Negotiation, Reptile
from training.frameworks.setting import Setting

FRAMEWORKS: Mapping[FrameworkName, Callable[[Setting], Framework]] = {
    "mix": Mix,
    "alternate": Alternate,
    "finetune": Alternate,  # `training.frameworks.finetune` follows it
    "weighted": Weighted,
    "pcgrad": PCGrad,
    "maml": Maml,
    "reptile": Reptile,
    "mldg": Mldg,
    "dn": Negotiation,
    "dr": regularized_alternate,
    "mamdr": mamdr,
}
