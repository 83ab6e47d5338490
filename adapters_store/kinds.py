"""What a backbone of each kind is made of: its tensors, by name and shape, and the modules that adapters may adapt.

Written apart from `network`, which the service does not import; docs/backbones.md has the formulas.
"""

from collections.abc import Mapping

from adapters_store.errors import DoesNotFit, MalformedArtifact
from adapters_store.manifest import FIELD_VECTORS, FIRST_ORDER, BackboneManifest
from adapters_store.tensors import Array
from features.fields import Field

Shape = tuple[int, ...]

NORM_PARTS = ("norm.weight", "norm.bias", "norm.mean", "norm.var")
PROJECTIONS = ("query", "key", "value", "residual")


def adaptable_modules(manifest: BackboneManifest) -> dict[str, tuple[int, int]]:
    """Adaptable module to the (d, k) of its weight: the tower's, bottom to top, then those of the interaction."""
    widths = [_tower_input(manifest), *manifest.tower]
    modules = {f"tower.{i}": (widths[i + 1], widths[i]) for i in range(len(manifest.tower))}
    if manifest.kind == "dcn_v2":
        k = _input_width(manifest)
        modules |= {f"cross.{i}": (k, k) for i in range(manifest.cross_layers or 0)}
    if manifest.attention is not None:
        d = manifest.attention.heads * manifest.attention.head_width
        inputs = [_embedding_width(manifest), *[d] * (manifest.attention.layers - 1)]
        modules |= {f"attention.{i}.{name}": (d, k) for i, k in enumerate(inputs) for name in PROJECTIONS}
    return modules


def expected_weights(manifest: BackboneManifest) -> dict[str, Shape]:
    """Every tensor of `weights.safetensors`, with its shape."""
    tables = {f.name: (f.vocabulary_size, f.width) for f in manifest.fields if f.kind != "dense"}
    expected: dict[str, Shape] = {f"embedding.{name}": shape for name, shape in tables.items()}
    for field in manifest.fields:
        if manifest.kind in FIRST_ORDER:
            expected[f"first_order.{field.name}"] = (field.vocabulary_size if _trained(field) else field.width,)
        if manifest.kind in FIELD_VECTORS and not _trained(field):
            expected[f"factor.{field.name}"] = (field.width, _embedding_width(manifest))
    for module, (d, k) in adaptable_modules(manifest).items():
        expected[f"{module}.weight"] = (d, k)
        if not module.startswith("attention."):
            expected[f"{module}.bias"] = (d,)
        if module.startswith("tower.") and manifest.norm:
            expected |= {f"{module}.{part}": (d,) for part in NORM_PARTS}
    k = _input_width(manifest)
    if manifest.kind == "dcn":
        for level in range(manifest.cross_layers or 0):
            expected |= {f"cross.{level}.weight": (k,), f"cross.{level}.bias": (k,)}
    return expected | {"output.weight": (1, manifest.tower[-1] + _beside_width(manifest)), "output.bias": (1,)}


def check_weights(manifest: BackboneManifest, weights: Mapping[str, Array]) -> None:
    """Hold a backbone's tensors to its manifest.

    Raises:
        MalformedArtifact: One is missing, unknown or not float32; named.
        DoesNotFit: One has another shape than fields, kind and tower say; named.
    """
    expected = expected_weights(manifest)
    for name in sorted(set(expected) ^ set(weights)):
        missing = f"is missing: a backbone of kind {manifest.kind!r} has one"
        unknown = f"is none of this backbone, which is of kind {manifest.kind!r}"
        raise MalformedArtifact(f"weight {name!r} {missing if name in expected else unknown}")
    for name, shape in expected.items():
        if weights[name].dtype.str != "<f4":
            raise MalformedArtifact(f"weight {name!r} is {weights[name].dtype}; it must be float32")
        if weights[name].shape != shape:
            raise DoesNotFit(f"weight {name!r} has shape {weights[name].shape}; fields and tower say {shape}")


def _trained(field: Field) -> bool:
    """Whether a field has a table that training changes."""
    return field.kind != "dense" and not field.frozen


def _input_width(manifest: BackboneManifest) -> int:
    return sum(field.width for field in manifest.fields)


def _embedding_width(manifest: BackboneManifest) -> int:
    """E; the manifest has checked that all trained tables share it where the kind needs it."""
    return next((field.width for field in manifest.fields if _trained(field)), 1)


def _tower_input(manifest: BackboneManifest) -> int:
    return _embedding_width(manifest) if manifest.kind == "neurfm" else _input_width(manifest)


def _beside_width(manifest: BackboneManifest) -> int:
    if manifest.kind in ("dcn", "dcn_v2"):
        return _input_width(manifest)
    attention = manifest.attention
    return 0 if attention is None else len(manifest.fields) * attention.heads * attention.head_width
