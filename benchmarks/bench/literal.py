"""The papers' equations as they stand, in torch: float64 is the oracle, float32 the network that it is compared with.

MultiLoRA (CIKM'24) Eq. 7 to 11 with the tensors as stored; nothing is folded, and nothing of ours is imported that
folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from benchmarks.bench.world import World, auxiliary_of

Tensors = Mapping[str, Tensor]


@torch.inference_mode()
def probabilities(world: World, form: str, dtype: torch.dtype = torch.float64) -> NDArray[np.float64]:
    """Of all requests' rows.

    Args:
        world: what is scored.
        form: `multi` (two divisions fused), `single` (the natural one) or `plain` (the backbone).
        dtype: of all arithmetic, up to the sigmoid, which is in float64.

    Returns:
        (n,) probabilities.
    """
    weights = _typed(world.backbone.weights, dtype)
    fusion = _typed(world.fusion.tensors, dtype)
    auxiliaries = {name: _typed(adapter.tensors, dtype) for name, adapter in world.auxiliaries.items()}
    parts = []
    for i, rows in enumerate(world.requests):
        x = torch.from_numpy(np.concatenate(list(world.lookup.vectors(rows).values()), axis=1)).to(dtype)
        if form == "plain":
            parts.append(_logits(world, weights, x, [], fusion, weights, ""))
        elif form == "single":
            own = _typed(world.plain[i].tensors, dtype)
            parts.append(_logits(world, weights, x, [own], fusion, own, ""))
        else:
            own = _typed(world.naturals[i].tensors, dtype)
            parts.append(_logits(world, weights, x, [own, auxiliaries[auxiliary_of(i)]], fusion, own, "pair.0."))
    logits = torch.cat(parts).double().numpy()
    found: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-logits))
    return found


def _logits(
    world: World, weights: Tensors, x: Tensor, loras: Sequence[Tensors], fusion: Tensors, norms: Tensors, prefix: str
) -> Tensor:
    """Logits (n,) of the input (n, k) through the adapted tower."""
    for level in range(len(world.shape.tower)):
        module = f"tower.{level}"
        h0 = functional.linear(x, weights[f"{module}.weight"], weights[f"{module}.bias"])
        h = h0 + _fused(module, x, h0, loras, fusion) if loras else h0
        weight, bias, mean, var = (norms[f"{prefix}{module}.norm.{p}"] for p in ("weight", "bias", "mean", "var"))
        eps = world.backbone.manifest.norm_eps
        x = functional.relu(functional.batch_norm(h, mean, var, weight, bias, training=False, eps=eps))
    return functional.linear(x, weights["output.weight"], weights["output.bias"]).squeeze(-1)


def _fused(module: str, x: Tensor, h0: Tensor, loras: Sequence[Tensors], fusion: Tensors) -> Tensor:
    """What the LoRAs add (n, d): Eq. 7 for each, Eq. 10 and 11 for several."""
    outputs = torch.stack(
        [
            t[f"{module}.scale"] * functional.linear(functional.linear(x, t[f"{module}.down"]), t[f"{module}.up"])
            + t[f"{module}.shift"]
            for t in loras
        ]
    )
    if len(loras) == 1:
        return outputs[0]
    query = functional.linear(h0, fusion[f"fusion.{module}.query"])
    keys = functional.linear(outputs, fusion[f"fusion.{module}.key"])
    shares = torch.softmax((keys * query).sum(-1) / query.shape[-1], dim=0)
    return (shares.unsqueeze(-1) * outputs).sum(0)


def _typed(tensors: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(value)).to(dtype) for name, value in tensors.items() if "embed" not in name}
