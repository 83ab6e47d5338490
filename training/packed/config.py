"""How many domains are trained together."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class PackedConfig(BaseModel):
    """The bounds of a pack.

    Args:
        memory_mib: what training one pack may take, in MiB, the data set itself not counted.
        domains: of one pack, at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_mib: Annotated[int, Field(ge=1)] = 512
    domains: Annotated[int, Field(ge=1)] = 64
