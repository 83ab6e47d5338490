"""A published fused adapter as a network: what an overlay is trained beside, or a new adapter judged against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from adapters_store.artifact import Adapter
from adapters_store.artifact import Fusion as FusionFile
from features.fields import Division
from network.backbone import Backbone
from network.errors import ShapeError
from network.fused import FusedTower
from network.fusion import Fusion
from network.lora import DomainAdapter
from training.newcomer.live import loaded_adapter


@dataclass(frozen=True)
class Pins:
    """What an adapter pins, decoded.

    Args:
        auxiliaries: by domain; more than it pins is no fault.
        fusion: where it pins one.
    """

    auxiliaries: Mapping[str, Adapter] = field(default_factory=dict)
    fusion: FusionFile | None = None


def loaded_as_served(
    backbone: Backbone, live: Adapter, pins: Pins, divisions: tuple[Division, ...]
) -> DomainAdapter | FusedTower:
    """Return a published adapter as a network, frozen; see `loaded_tower`."""
    if live.manifest.kind == "fused":
        return loaded_tower(backbone, live, pins, divisions)
    return loaded_adapter(backbone, live).requires_grad_(False).eval()


def loaded_tower(backbone: Backbone, live: Adapter, pins: Pins, divisions: tuple[Division, ...]) -> FusedTower:
    """Return a published fused adapter as a network, frozen.

    Args:
        backbone: that it was trained on.
        live: of kind `fused`.
        pins: what it pins.
        divisions: the natural one with its domain alone, then its auxiliary ones, in the manifest's order.

    Raises:
        ShapeError: its tensors or its pins do not fit the backbone.
    """
    manifest = live.manifest
    adapters: list[Mapping[int, DomainAdapter]] = [{0: loaded_adapter(backbone, live)}]
    for division in divisions[1:]:
        own = {name: place for place, name in enumerate(division.domains) if name in manifest.fuses}
        adapters.append({place: loaded_adapter(backbone, pins.auxiliaries[name]) for name, place in own.items()})
    tower = FusedTower(backbone, adapters, manifest.mode, _fusion(backbone, live, pins))
    places = [{name: place for place, name in enumerate(division.domains)} for division in divisions[1:]]
    for number, pair in enumerate(manifest.pairs):
        domains = (0, *(-1 if name is None else at[name] for at, name in zip(places, pair.domains, strict=True)))
        tower.add_norms(domains)
        for module, norm in tower.adapted_norms(domains).items():
            prefix = f"pair.{number}.{module}.norm."
            norm.load_state_dict({key: torch.tensor(live.tensors[prefix + key]) for key in norm.state_dict()})
    return tower.requires_grad_(False).eval()


def _fusion(backbone: Backbone, live: Adapter, pins: Pins) -> Fusion | None:
    if live.manifest.mode != "attention":
        return None
    if pins.fusion is None:
        raise ShapeError(f"mode 'attention' needs its fusion {live.manifest.fusion}")
    manifest = pins.fusion.manifest
    ranks = [manifest.ranks.get(module.name, 0) for module in backbone.shape.modules]
    fusion = Fusion(backbone.shape, ranks, manifest.divisor)
    fusion.load_tensors({name: torch.tensor(value) for name, value in pins.fusion.tensors.items()})
    return fusion
