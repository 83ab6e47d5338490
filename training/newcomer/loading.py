"""From a published bundle to a network that adapters can be trained on: the weights as published, all frozen."""

from __future__ import annotations

import torch

from adapters_store.backbone import Backbone as Bundle
from adapters_store.manifest import BackboneManifest
from network.backbone import Backbone
from network.inputs import FieldShape, NetworkShape

_NOT_THERE = 1


def shape_of_bundle(manifest: BackboneManifest) -> NetworkShape:
    """Return the shape of the network that a bundle holds; its own dropout is not known, and not needed again."""
    attention = manifest.attention
    return NetworkShape(
        fields=tuple(
            FieldShape(field.name, field.kind, field.vocabulary_size, field.width if field.frozen else 0)
            for field in manifest.fields
        ),
        width=next((f.width for f in manifest.fields if f.kind != "dense" and not f.frozen), _NOT_THERE),
        tower=tuple(manifest.tower),
        dropout=0.0,
        norm_eps=manifest.norm_eps,
        kind=manifest.kind,
        norm=manifest.norm,
        cross_layers=manifest.cross_layers or _NOT_THERE,
        attention_layers=_NOT_THERE if attention is None else attention.layers,
        heads=_NOT_THERE if attention is None else attention.heads,
        head_width=_NOT_THERE if attention is None else attention.head_width,
    )


def network_of(bundle: Bundle) -> Backbone:
    """Return a bundle's network, frozen and in eval mode.

    Args:
        bundle: read from a store or a folder; its weights are copied.

    Raises:
        ShapeError: its tables are of different widths, which no network of this build has.
    """
    backbone = Backbone(shape_of_bundle(bundle.manifest))
    backbone.load_weights({name: torch.tensor(value) for name, value in bundle.weights.items()})
    return backbone.freeze()
