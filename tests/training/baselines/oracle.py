"""Every baseline once more: float64 numpy, one row at a time, from the formulas of docs/baselines.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from network.inputs import Batch, NetworkShape

Array = NDArray[np.float64]
EPS = 1e-5


class Oracle:
    """Reads a baseline's tensors by name.

    Args:
        tensors: the baseline's state.
        shape: its shape.
        settings: its settings by key.
    """

    def __init__(self, tensors: dict[str, Tensor], shape: NetworkShape, settings: dict[str, Any]) -> None:
        self.t = {name: value.double().numpy() for name, value in tensors.items()}
        self.shape = shape
        self.settings = settings

    def logits(self, name: str, batch: Batch, domain: Tensor) -> Array:
        """The logits of all rows, each alone."""
        score: Callable[[Array, int], float] = getattr(self, name)
        inputs = [self.embed(batch, row) for row in range(len(batch))]
        return np.array([score(x, k) for x, k in zip(inputs, domain.tolist(), strict=True)])

    def embed(self, batch: Batch, row: int) -> Array:
        """One row's fields side by side."""
        table, start, pieces = self.t["embeddings.table"], 0, []
        sparse, dense = iter(batch.sparse[row].tolist()), iter(batch.dense[row].tolist())
        for field in self.shape.fields:
            if field.kind == "dense":
                pieces.append(np.array([next(dense)]))
                continue
            if field.kind == "sparse":
                pieces.append(table[start + next(sparse)])
            else:
                present = [value for value in batch.multi_hot[field.name][row].tolist() if value >= 0]
                total = sum((table[start + value] for value in present), np.zeros(self.shape.width))
                pieces.append(total / max(len(present), 1))
            start += field.rows
        return np.concatenate(pieces)

    def affine(self, prefix: str, x: Array) -> Array:
        """W x + b."""
        return self.t[f"{prefix}.weight"] @ x + self.t.get(f"{prefix}.bias", 0.0)

    def normed(self, prefix: str, h: Array) -> Array:
        """The norm by its running moments; the identity where there is none."""
        if f"{prefix}.mean" not in self.t:
            return h
        unit = (h - self.t[f"{prefix}.mean"]) / np.sqrt(self.t[f"{prefix}.var"] + EPS)
        return self.t[f"{prefix}.weight"] * unit + self.t[f"{prefix}.bias"]

    def layers(self, prefix: str, x: Array, shift: Array | float = 0.0) -> Array:
        """Hidden layers; `shift` enters the first one's pre-activation."""
        level = 0
        while f"{prefix}.layers.{level}.linear.weight" in self.t:
            h = self.affine(f"{prefix}.layers.{level}.linear", x) + (shift if level == 0 else 0.0)
            x = np.maximum(self.normed(f"{prefix}.layers.{level}.norm", h), 0.0)
            level += 1
        return x

    def head(self, prefix: str, x: Array) -> float:
        """A tower and its logit."""
        return float(self.affine(f"{prefix}.output", self.layers(f"{prefix}.hidden", x))[0])

    def experts(self, prefix: str, x: Array) -> list[Array]:
        """The outputs of experts side by side."""
        count = len({name.split(".")[prefix.count(".") + 2] for name in self.t if name.startswith(f"{prefix}.each.")})
        return [self.layers(f"{prefix}.each.{i}", x) for i in range(count)]

    def mixed(self, gate: str, x: Array, outputs: list[Array]) -> Array:
        """The softmax gate's weighted sum."""
        scores = np.exp(self.t[gate] @ x)
        return sum((w * o for w, o in zip(scores / scores.sum(), outputs, strict=True)), np.zeros_like(outputs[0]))

    def shared_bottom(self, x: Array, k: int) -> float:
        return self.head(f"towers.{k}", self.layers("bottom", x))

    def mmoe(self, x: Array, k: int) -> float:
        return self.head(f"towers.{k}", self.mixed(f"gates.weight.{k}", x, self.experts("experts", x)))

    def cgc(self, x: Array, k: int) -> float:
        return self.ple(x, k)

    def ple(self, x: Array, k: int) -> float:
        domains = len({name.split(".")[1] for name in self.t if name.startswith("towers.")})
        levels = len({name.split(".")[1] for name in self.t if name.startswith("lower.")})
        paths, shared = [x] * domains, x
        for prefix in [f"lower.{i}" for i in range(levels)]:
            common = self.experts(f"{prefix}.shared", shared)
            own = [self.experts(f"{prefix}.own.{i}", paths[i]) for i in range(domains)]
            everything = [output for outputs in own for output in outputs] + common
            paths = [self.mixed(f"{prefix}.gates.weight.{i}", paths[i], own[i] + common) for i in range(domains)]
            shared = self.mixed(f"{prefix}.shared_gate.weight.0", shared, everything)
        chosen = self.experts(f"top.own.{k}", paths[k]) + self.experts("top.shared", shared)
        return self.head(f"towers.{k}", self.mixed(f"top.gates.weight.{k}", paths[k], chosen))

    def partitioned(self, prefix: str, k: int, h: Array) -> Array:
        """STAR, Eq. 4; the input itself where there is no norm."""
        if f"{prefix}.weight" not in self.t:
            return h
        own = f"{prefix}.own.{k}"
        unit = (h - self.t[f"{own}.mean"]) / np.sqrt(self.t[f"{own}.var"] + EPS)
        gain = self.t[f"{prefix}.weight"] * self.t[f"{own}.weight"]
        return gain * unit + self.t[f"{prefix}.bias"] + self.t[f"{own}.bias"]

    def starred(self, prefix: str, k: int, x: Array) -> Array:
        """STAR, Eq. 5 and 6 before phi."""
        weight = self.t[f"{prefix}.own_weight.{k}"] * self.t[f"{prefix}.weight"]
        return weight @ x + self.t[f"{prefix}.own_bias.{k}"] + self.t[f"{prefix}.bias"]

    def star(self, x: Array, k: int) -> float:
        aside = self.head("auxiliary", np.concatenate([self.t[f"indicator.{k}"], x]))
        x = self.partitioned("input_norm", k, x)
        for level in range(len(self.shape.tower)):
            h = self.partitioned(f"layer_norms.{level}", k, self.starred(f"linears.{level}", k, x))
            x = np.maximum(h, 0.0)
        return float(self.starred("output", k, x)[0]) + aside

    def hamur(self, x: Array, k: int) -> float:
        rank = self.settings["rank"]
        inner = self.affine("generate", self.layers("hyper", x)).reshape(rank, rank)
        depth = len(self.shape.tower)
        levels = sorted(cell % depth for cell in self.settings["cells"])
        for level in range(depth):
            h = self.affine(f"hidden.layers.{level}.linear", x)
            x = np.maximum(self.normed(f"hidden.layers.{level}.norm", h), 0.0)
            if level in levels:
                x = self.cell(f"cells.{k}.{levels.index(level)}", x, inner)
        return float(self.affine("output", x)[0])

    def cell(self, prefix: str, x: Array, inner: Array) -> Array:
        """One adapter cell, its two generated matrices formed in full."""
        down = self.t[f"{prefix}.down_left"] @ inner @ self.t[f"{prefix}.down_right"]
        up = self.t[f"{prefix}.up_left"] @ inner @ self.t[f"{prefix}.up_right"]
        low = 1 / (1 + np.exp(-(x @ down + self.t[f"{prefix}.down_shift"])))
        return x + self.normed(f"{prefix}.norm", low @ up + self.t[f"{prefix}.up_shift"])

    def plate(self, x: Array, k: int) -> float:
        user = np.concatenate([x[: self.shape.width], x[self.shape.width : self.shape.width + 1]])
        asked = self.affine("user_prompt", self.layers("generator", user))
        shift = self.affine("reader", np.concatenate([self.t[f"prompts.{k}"], asked]))
        return float(self.affine("output", self.layers("hidden", x, shift))[0])
