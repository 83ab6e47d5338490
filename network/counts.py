"""Parameter counts, labelled, as methods.md 1 and 2 state them."""

from __future__ import annotations

from collections.abc import Sequence

from network.inputs import FIELD_VECTORS, NetworkShape


def backbone_counts(shape: NetworkShape) -> dict[str, int]:
    """Count a backbone's parameters; what its kind does not have is left out. Source: methods.md 1."""
    tables = [f.rows for f in shape.fields if f.trained]
    untrained = sum(shape.width_of(f) for f in shape.untrained)
    linear = sum(k * d + d for k, d in shape.layers)
    norms = 2 * sum(shape.tower) if shape.norm else 0
    output = shape.output_width + 1
    tower = linear + norms + output
    known = sum(tables) - len(tables)
    interaction = _interaction(shape) + (untrained * shape.width if shape.kind in FIELD_VECTORS else 0)
    wide = shape.width + int(shape.first_order)
    others = tower + interaction + (untrained if shape.first_order else 0)
    counts = {
        "linear weights and biases": linear,
        "norm weights and biases": norms,
        "output layer": output,
        "tower": tower,
        "interaction": interaction,
        "first-order weights of known values": known + untrained if shape.first_order else 0,
        "embeddings of known values": known * shape.width,
        "backbone": known * wide + others,
        "backbone with out-of-vocabulary rows": sum(tables) * wide + others,
    }
    return {name: n for name, n in counts.items() if n}


def adapter_counts(shape: NetworkShape, ranks: Sequence[int]) -> dict[str, int]:
    """Count one domain's adapter's parameters. Source: methods.md 2.

    Args:
        shape: of the backbone.
        ranks: of each adaptable module, 0 where none is adapted.
    """
    adapted = [(module, r) for module, r in zip(shape.modules, ranks, strict=True) if r]
    low = sum(r * (module.inputs + module.outputs) for module, r in adapted)
    wide = 2 * sum(module.outputs for module, _ in adapted)
    norms = 2 * sum(module.outputs for module, _ in adapted if module.norm)
    return {
        "down and up": low,
        "down, up, scale, shift": low + wide,
        "down, up, scale, shift, norm weights and biases": low + wide + norms,
    }


def fusion_counts(shape: NetworkShape, ranks: Sequence[int]) -> dict[str, int]:
    """Count the fusion's parameters, r x d for each of query and key. Source: methods.md 2."""
    return {"fusion query and key": 2 * sum(r * m.outputs for r, m in zip(ranks, shape.modules, strict=True))}


def _interaction(shape: NetworkShape) -> int:
    """Parameters of cross layers or attention."""
    if shape.kind == "dcn":
        return 2 * shape.cross_layers * shape.input_width
    modules = shape.modules[len(shape.tower) :]
    biases = sum(module.outputs for module in modules) if shape.kind == "dcn_v2" else 0
    return sum(module.inputs * module.outputs for module in modules) + biases
