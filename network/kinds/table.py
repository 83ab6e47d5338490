"""Which class is which kind."""

from __future__ import annotations

from collections.abc import Mapping

from network.inputs import Kind
from network.kinds.autoint import AutoInt
from network.kinds.dcn import Dcn
from network.kinds.dcn_v2 import DcnV2
from network.kinds.deepfm import DeepFm
from network.kinds.interaction import Interaction
from network.kinds.mlp import Mlp
from network.kinds.neurfm import NeurFm
from network.kinds.wide_deep import WideDeep

KINDS: Mapping[Kind, type[Interaction]] = {
    "mlp": Mlp,
    "wide_deep": WideDeep,
    "deepfm": DeepFm,
    "dcn": Dcn,
    "dcn_v2": DcnV2,
    "neurfm": NeurFm,
    "autoint": AutoInt,
}
