"""Settings of each baseline: frozen, and checked before anything is built."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]
Widths = tuple[Positive, ...]


class Settings(BaseModel):
    """What all settings have in common: no key may change, and none may be unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SharedBottomSettings(Settings):
    """Shared-Bottom.

    Args:
        bottom: widths of the shared hidden layers; null is the backbone's tower without its last layer.
        tower: widths of each domain's hidden layers; null is the last layer of the backbone's tower.
    """

    bottom: Widths | None = None
    tower: Widths | None = None


class ExpertSettings(SharedBottomSettings):
    """What networks of experts have in common; `bottom` are the hidden layers of each expert, at least one."""

    @model_validator(mode="after")
    def _some_layer(self) -> Self:
        if self.bottom == ():
            raise ValueError("bottom has no layer: experts without one would all be the same")
        return self


class MmoeSettings(ExpertSettings):
    """MMoE.

    Args:
        experts: how many, shared by all domains.
    """

    experts: Positive = 8


class CgcSettings(ExpertSettings):
    """CGC.

    Args:
        own_experts: of each domain.
        shared_experts: of all domains.
    """

    own_experts: Positive = 1
    shared_experts: Positive = 2


class PleSettings(CgcSettings):
    """PLE: CGC in several levels; `bottom` is dealt out to the levels in order.

    Args:
        levels: how many. The first ones take a layer each, the last one what is left; where no layer is left, a level
            repeats the last width.
    """

    levels: Positive = 2


class StarSettings(Settings):
    """STAR.

    Args:
        norm_at: where the partitioned norm stands: before the first layer (the paper), in each hidden layer where the
            backbone's norm would be, or both.
        auxiliary: widths of the auxiliary network's hidden layers.
    """

    norm_at: Literal["input", "hidden", "both"] = "input"
    auxiliary: Widths = (32,)


class HamurSettings(Settings):
    """HAMUR.

    Args:
        cells: hidden layers that an adapter cell follows, from 0; negative numbers count from the last.
        bottleneck: width b between a cell's down and up projection.
        rank: r of the matrix that the hyper-network generates.
        hyper: widths of the hyper-network's hidden layers.
        start_gain: start of the cell norm's weight; small, so that a cell starts near the identity.
    """

    cells: tuple[int, ...] = (-1,)
    bottleneck: Positive = 32
    rank: Positive = 16
    hyper: Widths = Field(default=(64,), min_length=1)
    start_gain: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1

    @model_validator(mode="after")
    def _some_cell(self) -> Self:
        if not self.cells:
            raise ValueError("cells names no layer: name at least one, or take another baseline")
        return self


class PlateSettings(Settings):
    """PLATE.

    Args:
        prompt: width of a domain's prompt, and of a user's; null is the embedding width.
        user_fields: fields that a user's prompt is generated from; empty takes all fields.
        generator: widths of the hidden layers that generate a user's prompt.
        tune_output: whether the phase `tune` trains the output layer too.
    """

    prompt: Positive | None = None
    user_fields: tuple[str, ...] = ()
    generator: Widths = (32,)
    tune_output: bool = True
