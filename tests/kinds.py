"""A random world for every kind of backbone: towers with and without norms, every kind of field."""

from __future__ import annotations

from tests.factory import Sizes

KINDS: dict[str, Sizes] = {
    "wide_deep": Sizes(kind="wide_deep", picture=True, hashed=True),
    "deepfm": Sizes(kind="deepfm", picture=True, dense=True),
    "dcn": Sizes(kind="dcn", norm=False),
    "dcn_v2": Sizes(kind="dcn_v2", by_item=True),
    "neurfm": Sizes(kind="neurfm", picture=True, norm=False),
    "autoint": Sizes(kind="autoint", picture=True),
    "mlp-without-norm": Sizes(norm=False),
}
"""Name to world; each has its own mix of what a world may have, so that few graphs hold many cases."""
