"""The literal equations: towers, crosses and attention over fields, and MultiLoRA's Eq. 7 to 11, nothing folded."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from benchmarks.oracle_bundle import OracleBundle
from benchmarks.oracle_files import AdapterFile, Array


def sigmoid(x: Array) -> Array:
    """Logits to probabilities, elementwise."""
    return 1.0 / (1.0 + np.exp(-x))


class OracleNetwork(OracleBundle):
    """From vectors (n, k) to logits (n,)."""

    def norm(self, tensors: Mapping[str, Array], prefix: str, h: Array) -> Array:
        mean, var = tensors[f"{prefix}.norm.mean"], tensors[f"{prefix}.norm.var"]
        scaled = (h - mean) / np.sqrt(var + self.eps)
        return scaled * tensors[f"{prefix}.norm.weight"] + tensors[f"{prefix}.norm.bias"]

    def logits(
        self,
        x: Array,
        adapter: AdapterFile | None = None,
        auxiliaries: Sequence[AdapterFile] = (),
        fusion: AdapterFile | None = None,
        norm_prefix: str = "",
    ) -> Array:
        """Logits (n,) before calibration; `auxiliaries` are those present for these rows, in division order."""
        if adapter is not None and adapter.manifest["kind"] == "delta":
            return self.under(adapter).logits(x)

        def mapped(module: str, v: Array) -> Array:
            """W0 v + b0 and what the adapters add to it."""
            h0 = v @ self.weights[f"{module}.weight"].T + self.weights.get(f"{module}.bias", 0.0)
            if adapter is None or module not in adapter.manifest["ranks"]:
                return np.asarray(h0)
            return h0 + self.fused(module, v, h0, [adapter, *auxiliaries], adapter.manifest["mode"], fusion)

        def normed(module: str, h: Array) -> Array:
            own = adapter is not None and module in adapter.manifest["ranks"]
            tensors = adapter.tensors if adapter is not None and own else self.weights
            return self.norm(tensors, f"{norm_prefix}{module}" if own else module, h)

        return self.through(x, mapped, normed)

    def through(self, x: Array, mapped: Callable[[str, Array], Array], normed: Callable[[str, Array], Array]) -> Array:
        """Logits (n,) of the network whose linear maps and norms are these, by module."""
        k = sum(field["width"] for field in self.fields)
        first = x[:, k] if self.first_order else 0.0
        x = x[:, :k]
        v, beside = x, []
        if self.kind in ("dcn", "dcn_v2"):
            beside = [self.crossed(x, mapped)]
        elif self.kind == "autoint":
            beside = [self.attended(self.by_field(x), mapped)]
        elif self.kind == "deepfm":
            first = first + self.pairs(x).sum(1)
        elif self.kind == "neurfm":
            v = self.pairs(x)
        for layer in range(self.layers):
            module = f"tower.{layer}"
            h = mapped(module, v)
            if f"{module}.norm.mean" in self.weights:
                h = normed(module, h)
            v = np.maximum(h, 0.0)
        out = np.concatenate([*beside, v], axis=1) @ self.weights["output.weight"].T + self.weights["output.bias"]
        return np.asarray(out[:, 0] + first)

    def by_field(self, x: Array) -> list[Array]:
        """A vector (n, E) of each field: its own, or its product with the field's `factor`."""
        parts, at = [], 0
        for field in self.fields:
            part = x[:, at : at + field["width"]]
            at += field["width"]
            factor = self.weights.get(f"factor.{field['name']}")
            parts.append(part if factor is None else part @ factor)
        return parts

    def pairs(self, x: Array) -> Array:
        """Sum over all pairs of fields of the product of their vectors (n, E), pair by pair."""
        products = [a * b for a, b in itertools.combinations(self.by_field(x), 2)]
        return np.asarray(np.sum(products, axis=0))

    def crossed(self, x0: Array, mapped: Callable[[str, Array], Array]) -> Array:
        """The cross network (n, k): x' = x0 * (x . w) + b + x, or x0 * (W x + b) + x."""
        x = x0
        for layer in range(int(self.manifest["cross_layers"])):
            if self.kind == "dcn_v2":
                x = x0 * mapped(f"cross.{layer}", x) + x
            else:
                weight, bias = self.weights[f"cross.{layer}.weight"], self.weights[f"cross.{layer}.bias"]
                x = np.stack([a * np.dot(b, weight) + bias + b for a, b in zip(x0, x, strict=True)])
        return x

    def attended(self, fields: Sequence[Array], mapped: Callable[[str, Array], Array]) -> Array:
        """The attention over fields (n, F * heads * head width), field by field and head by head."""
        shape = self.manifest["attention"]
        for layer in range(int(shape["layers"])):
            query, key, value, residual = (
                [mapped(f"attention.{layer}.{name}", v) for v in fields]
                for name in ("query", "key", "value", "residual")
            )
            out = []
            for m in range(len(fields)):
                heads = []
                for h in range(int(shape["heads"])):
                    at = slice(h * shape["head_width"], (h + 1) * shape["head_width"])
                    energy = np.stack([(query[m][:, at] * one[:, at]).sum(1) for one in key], axis=1)
                    weight = np.exp(energy - energy.max(1, keepdims=True))
                    weight /= weight.sum(1, keepdims=True)
                    heads.append(sum(weight[:, [i]] * one[:, at] for i, one in enumerate(value)))
                out.append(np.maximum(np.concatenate(heads, axis=1) + residual[m], 0.0))
            fields = out
        return np.concatenate(list(fields), axis=1)

    def fused(
        self, module: str, x: Array, h0: Array, loras: Sequence[AdapterFile], mode: str, fusion: AdapterFile | None
    ) -> Array:
        """Eq. 10 and the sum inside Eq. 11 over the divisions that are present."""
        outputs = np.stack([lora.lora(module, x) for lora in loras])  # (m, n, d)
        if mode in ("add", "single"):
            return np.asarray(outputs.sum(0) if mode == "add" else outputs[0])
        if mode == "avg":
            return np.asarray(outputs.mean(0))
        assert fusion is not None, "attention without its fusion"
        query, key = fusion.tensors[f"fusion.{module}.query"], fusion.tensors[f"fusion.{module}.key"]
        rank = query.shape[0]
        divisor = rank if fusion.manifest["divisor"] == "r" else np.sqrt(rank)
        energy = np.stack([((h0 @ query.T) * (h @ key.T)).sum(1) for h in outputs]) / divisor  # (m, n)
        energy -= energy.max(0)
        w = np.exp(energy) / np.exp(energy).sum(0)
        return np.asarray((w[:, :, None] * outputs).sum(0))
