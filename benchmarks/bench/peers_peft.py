"""PEFT's mixed batch as a peer: `adapter_names` for each row, one LoRA a domain.

It has neither fusion nor norms of a domain, so it is spared both, and the backbone's norms are folded into its weights.
Its LoRAs are untrained, so that they cost what trained ones cost and its logits are the backbone's, which is checked.
Its documentation says what helps: few adapters in a batch, rows in large batches, inference mode; the first two are the
world's to say.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from adapters_store.folding import fold_backbone
from benchmarks.bench.contender import Contender, Logits
from benchmarks.bench.world import World

NAME = "PEFT mixed batch, SingleLoRA without norms"


def mixed_batch(world: World, threads: int) -> Contender:
    """One LoRA a domain of the papers' ranks; the whole batch in one call."""
    torch.set_num_threads(threads)
    layers = [str(2 * level) for level in range(len(world.shape.tower))]
    ranks = dict(zip(layers, world.shape.ranks, strict=True))
    config = LoraConfig(r=world.shape.ranks[0], rank_pattern=ranks, target_modules=layers)
    names = [f"domain-{i}" for i in range(len(world.requests))]
    mixed = get_peft_model(_sequential(world), config, adapter_name=names[0])
    for name in names[1:]:
        mixed.add_adapter(name, config)
    mixed.eval()
    of_rows = [name for name, rows in zip(names, world.requests, strict=True) for _ in range(rows.n)]

    @torch.inference_mode()
    def score() -> Logits:
        x = torch.from_numpy(np.concatenate(list(world.vectors().values()), axis=1))
        logits: Logits = mixed(x, adapter_names=of_rows).squeeze(-1).numpy()
        return logits

    return Contender(NAME, score, "plain")


def _sequential(world: World) -> nn.Sequential:
    """The backbone's tower as PEFT takes it."""
    layers: list[nn.Module] = []
    weights = world.backbone.weights
    folded = fold_backbone(world.backbone).modules
    for (module, packed), (k, d) in zip(
        folded.items(), pairwise((world.shape.inputs, *world.shape.tower)), strict=True
    ):
        weight = weights[f"{module}.weight"] * packed.norm_scale[:, None]
        bias = weights[f"{module}.bias"] * packed.norm_scale + packed.norm_shift
        layers += [_linear(k, d, weight, bias), nn.ReLU()]
    output = _linear(world.shape.tower[-1], 1, weights["output.weight"], weights["output.bias"])
    return nn.Sequential(*layers, output)


def _linear(k: int, d: int, weight: Any, bias: Any) -> nn.Linear:
    linear = nn.Linear(k, d)
    linear.load_state_dict({"weight": torch.tensor(np.array(weight)), "bias": torch.tensor(np.array(bias))})
    return linear
