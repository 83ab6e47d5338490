"""Which modules are adapted, and with which rank: from the configuration to one number for each adaptable module."""

from __future__ import annotations

from collections.abc import Sequence

from network.inputs import NetworkShape
from training.config import AdapterConfig, FusionConfig
from training.errors import ConfigError


def adapter_ranks(shape: NetworkShape, config: AdapterConfig) -> tuple[int, ...]:
    """Return the LoRA rank of each adaptable module; 0 is not adapted.

    Args:
        shape: of the backbone.
        config: what an adapter is.

    Raises:
        ConfigError: a target names no module, or there is not one rank for each hidden layer.
    """
    ranks = _by_module(shape, "adapter.ranks", config.ranks, config.interaction_rank)
    if config.target_modules is None:
        return ranks
    names = [module.name for module in shape.modules]
    for target in config.target_modules:
        if not any(_targets(target, name) for name in names):
            raise ConfigError(
                f"adapter.target_modules names {target!r}, which is no module of kind {shape.kind!r}; "
                f"it has {', '.join(names)}"
            )
    chosen = [any(_targets(target, name) for target in config.target_modules) for name in names]
    return tuple(rank if taken else 0 for rank, taken in zip(ranks, chosen, strict=True))


def fusion_ranks(shape: NetworkShape, config: FusionConfig, adapter: AdapterConfig) -> tuple[int, ...]:
    """Return the fusion rank of each adaptable module; 0 where the adapters adapt nothing.

    Args:
        shape: of the backbone.
        config: how adapters combine.
        adapter: what they are.

    Raises:
        ConfigError: as `adapter_ranks`.
    """
    adapted = adapter_ranks(shape, adapter)
    interaction = config.interaction_rank or adapter.interaction_rank
    ranks = _by_module(shape, "fusion.ranks", config.ranks or adapter.ranks, interaction)
    return tuple(rank if taken else 0 for rank, taken in zip(ranks, adapted, strict=True))


def _by_module(shape: NetworkShape, key: str, tower: Sequence[int], interaction: int) -> tuple[int, ...]:
    layers = len(shape.tower)
    if len(tower) != layers:
        raise ConfigError(f"{key} has {len(tower)} numbers for {layers} hidden layers: give one for each layer")
    return (*tower, *[interaction] * (len(shape.modules) - layers))


def _targets(target: str, name: str) -> bool:
    """Whether a target is a module's name, or whole words at its beginning or end."""
    return name == target or name.startswith(f"{target}.") or name.endswith(f".{target}")
