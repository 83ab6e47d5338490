"""Every baseline by name, with its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from adapters_store.validation import explain
from network.inputs import NetworkShape
from training.baselines.baseline import Baseline
from training.baselines.hamur import Hamur
from training.baselines.mmoe import Mmoe
from training.baselines.plate import Plate
from training.baselines.ple import Ple
from training.baselines.settings import (
    CgcSettings,
    HamurSettings,
    MmoeSettings,
    PlateSettings,
    PleSettings,
    Settings,
    SharedBottomSettings,
    StarSettings,
)
from training.baselines.shared_bottom import SharedBottom
from training.baselines.star import Star
from training.errors import ConfigError


@dataclass(frozen=True)
class BaselineKind:
    """One baseline.

    Args:
        settings: what it can be told.
        build: makes it of a shape, the number of natural domains, and its settings.
    """

    settings: type[Settings]
    build: Callable[[NetworkShape, int, Any], Baseline]


BASELINES: Mapping[str, BaselineKind] = {
    "shared_bottom": BaselineKind(SharedBottomSettings, SharedBottom),
    "mmoe": BaselineKind(MmoeSettings, Mmoe),
    "cgc": BaselineKind(CgcSettings, Ple),
    "ple": BaselineKind(PleSettings, Ple),
    "star": BaselineKind(StarSettings, Star),
    "hamur": BaselineKind(HamurSettings, Hamur),
    "plate": BaselineKind(PlateSettings, Plate),
}


def settings_of(name: str, values: Mapping[str, Any]) -> Settings:
    """Return the checked settings of one baseline.

    Args:
        name: of the baseline.
        values: by key, such as a configuration file holds them; those left out keep their defaults.

    Raises:
        ConfigError: there is no such baseline, or a key is unknown or has a wrong value; the message names it.
    """
    if name not in BASELINES:
        raise ConfigError(f"{name!r} is no baseline; there are {', '.join(BASELINES)}")
    kind = BASELINES[name].settings
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(f"{name}: {explain(error, kind)}") from None


def build_baseline(name: str, shape: NetworkShape, domains: int, values: Mapping[str, Any] | None = None) -> Baseline:
    """Return an untrained baseline; its weights are drawn from torch's global generator.

    Args:
        name: of the baseline.
        shape: fields, widths and constants, of kind mlp.
        domains: how many natural domains there are.
        values: its settings by key.

    Raises:
        ConfigError: as `settings_of`, or settings that do not fit the shape.
        ShapeError: no domain, or a shape of another kind.
    """
    settings = settings_of(name, values or {})
    return BASELINES[name].build(shape, domains, settings)


def parameter_counts(baseline: Baseline) -> dict[str, int]:
    """Count parameters, labelled: the tables, all else, and both."""
    table = baseline.embeddings.table.numel()
    dense = sum(parameter.numel() for parameter in baseline.dense_parameters())
    return {"embeddings": table, "dense": dense, "all": table + dense}
