"""An adapter's id overlay: its tensors held to the backbone, and indexed once for all requests."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters_store.artifact import Adapter
from adapters_store.backbone import Backbone
from adapters_store.errors import BadValue, DoesNotFit, MalformedArtifact
from adapters_store.structure import CODED_PARTS, OVERLAY, overlaid_sides, place_of
from features.errors import MalformedTensors
from features.fields import Field
from features.overlay import CodedRows, IdOverlay, OverlaidSide, Overlay, read_ids


def check_overlay(backbone: Backbone, adapter: Adapter) -> None:
    """Hold each side to the backbone's id field.

    Raises:
        DoesNotFit: The backbone has no id field of the side, or one of another width.
    """
    for side in overlaid_sides(adapter.tensors):
        field, prefix = _id_field(backbone, side), f"{OVERLAY}{side}."
        rows = prefix + ("start" if prefix + "start" in adapter.tensors else "rows")
        width = adapter.tensors[rows].shape[-1]
        if width != field.width:
            raise DoesNotFit(f"tensor {rows!r} has width {width}; field {field.name!r} has {field.width}")
        _check_first_order(f"{OVERLAY}{side}.first_order", field, backbone, adapter)


def read_overlay(backbone: Backbone, adapter: Adapter) -> Overlay | None:
    """Index an adapter's overlay, which `check_overlay` found to fit; None where it carries none.

    Its arrays are copies, so that what is kept of it is what is counted.

    Raises:
        MalformedArtifact: The ids are not sorted, occur twice or are none; the tensor is named.
        BadValue: Coded rows leave what float16 holds.
    """
    sides: dict[OverlaidSide, IdOverlay] = {}
    for side in overlaid_sides(adapter.tensors):
        name = f"{OVERLAY}{side}."
        try:
            index = read_ids(adapter.tensors[name + "ids"], adapter.tensors.get(name + "offsets"), name + "ids")
        except MalformedTensors as error:
            raise MalformedArtifact(f"tensor {error}") from None
        weights = adapter.tensors.get(name + "first_order")
        sides[side] = IdOverlay(
            _id_field(backbone, side).name,
            index,
            _rows(adapter, name),
            None if weights is None else np.array(weights),
        )
    return Overlay(sides) if sides else None


def _rows(adapter: Adapter, prefix: str) -> NDArray[Any]:
    """The embeddings (n, E), a copy; float16 where they are coded."""
    if prefix + "codes" not in adapter.tensors:
        return np.array(adapter.tensors[prefix + "rows"])
    rows = CodedRows(*(np.asarray(adapter.tensors[prefix + part]) for part in CODED_PARTS)).rows()
    infinite = ~np.isfinite(rows)
    if infinite.any():
        raise BadValue(f"tensor {prefix + 'codes'!r}: the value at {place_of(infinite)} is outside of float16")
    return rows


def _check_first_order(name: str, field: Field, backbone: Backbone, adapter: Adapter) -> None:
    """Hold an overlay to carry first-order weights where the backbone has some, and there alone."""
    wanted = f"first_order.{field.name}" in backbone.weights
    if wanted and name not in adapter.tensors:
        raise DoesNotFit(f"tensor {name!r} is missing: the backbone has first-order weights of field {field.name!r}")
    if name in adapter.tensors and not wanted:
        raise DoesNotFit(f"tensor {name!r} has no place: the backbone has no first-order weights")


def _id_field(backbone: Backbone, side: OverlaidSide) -> Field:
    found = [field for field in backbone.manifest.fields if field.id and field.of == side]
    if len(found) != 1:
        raise DoesNotFit(
            f"tensor '{OVERLAY}{side}.rows': the backbone has {len(found)} id fields of {side}; an overlay needs one"
        )
    return found[0]
