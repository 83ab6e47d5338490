"""Parameter counts, labelled, as methods.md 1 and 2 state them."""

from __future__ import annotations

from collections.abc import Sequence

from network.inputs import NetworkShape


def backbone_counts(shape: NetworkShape) -> dict[str, int]:
    """Count a backbone's parameters. Source: methods.md 1."""
    tables = [f.rows for f in shape.fields if f.kind != "dense"]
    linear = sum(k * d + d for k, d in shape.layers)
    norms = 2 * sum(shape.tower)
    output = shape.tower[-1] + 1
    tower = linear + norms + output
    ids = (sum(tables) - len(tables)) * shape.width
    return {
        "linear weights and biases": linear,
        "norm weights and biases": norms,
        "output layer": output,
        "tower": tower,
        "embeddings of known values": ids,
        "backbone": ids + tower,
        "backbone with out-of-vocabulary rows": sum(tables) * shape.width + tower,
    }


def adapter_counts(shape: NetworkShape, ranks: Sequence[int]) -> dict[str, int]:
    """Count one domain's adapter's parameters. Source: methods.md 2."""
    low = sum(r * (k + d) for r, (k, d) in zip(ranks, shape.layers, strict=True))
    wide = 2 * sum(shape.tower)
    return {
        "down and up": low,
        "down, up, scale, shift": low + wide,
        "down, up, scale, shift, norm weights and biases": low + 2 * wide,
    }


def fusion_counts(shape: NetworkShape, ranks: Sequence[int]) -> dict[str, int]:
    """Count the fusion's parameters, r x d for each of query and key. Source: methods.md 2."""
    return {"fusion query and key": 2 * sum(r * d for r, d in zip(ranks, shape.tower, strict=True))}
