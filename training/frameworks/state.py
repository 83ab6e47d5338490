"""What a framework has learned: theta_S, the theta_i, moments, and its optimizers; all of it named tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.frameworks.optimizers import Optimizer
from training.frameworks.structure import TABLE

Tensors = dict[str, Tensor]


@dataclass
class Specific:
    """theta_i of one domain (methods.md 3): what is added to theta_S.

    Args:
        dense: by parameter name, as far as the domain changes it.
        ids: (u,) int64 sorted, rows of `embeddings.table` that the domain changes.
        rows: (u, E) what is added to them.
        moments: the norms' running moments of theta_S + theta_i; empty for a structure without norms.
    """

    dense: Tensors
    ids: Tensor
    rows: Tensor
    moments: Tensors = field(default_factory=dict)

    @classmethod
    def zeros(cls, dense: Mapping[str, Tensor], width: int) -> Specific:
        """Return the theta_i that changes nothing, over parameters of these shapes."""
        zero = {name: torch.zeros_like(value) for name, value in dense.items()}
        return cls(zero, torch.empty(0, dtype=torch.int64), torch.empty(0, width))

    def copied(self) -> Specific:
        """Return a copy that shares no memory."""
        dense, moments = ({name: value.clone() for name, value in part.items()} for part in (self.dense, self.moments))
        return Specific(dense, self.ids.clone(), self.rows.clone(), moments)


@dataclass
class State:
    """Everything that an epoch starts from; `tensors` holds all of it and `State.of` brings it back.

    Args:
        shared: theta_S by parameter name, `embeddings.table` included.
        moments: the norms' running moments of theta_S.
        specifics: theta_i by domain position; empty where a framework has none.
        optimizers: by role, as far as their state outlives an epoch.
        extra: what a framework keeps besides, such as the uncertainty of each domain.
    """

    shared: Tensors
    moments: Tensors = field(default_factory=dict)
    specifics: dict[int, Specific] = field(default_factory=dict)
    optimizers: dict[str, Optimizer] = field(default_factory=dict)
    extra: Tensors = field(default_factory=dict)

    def tensors(self) -> Tensors:
        """Return every tensor under a name of its own; those of optimizers are among them."""
        named = {f"shared/{name}": value for name, value in self.shared.items()}
        named |= {f"moments/{name}": value for name, value in self.moments.items()}
        named |= {f"extra/{name}": value for name, value in self.extra.items()}
        for i, own in self.specifics.items():
            named |= {f"specific/{i}/dense/{name}": value for name, value in own.dense.items()}
            named |= {f"specific/{i}/moments/{name}": value for name, value in own.moments.items()}
            named |= {f"specific/{i}/ids": own.ids, f"specific/{i}/rows": own.rows}
        for role, optimizer in self.optimizers.items():
            named |= {f"optimizer/{role}/{name}": value for name, value in optimizer.tensors().items()}
        return named

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Become what `tensors` gave; the optimizers named there must be in place."""
        parts = by_prefix(tensors)
        self.shared = parts.get("shared", {})
        self.moments = parts.get("moments", {})
        self.extra = parts.get("extra", {})
        self.specifics = {}
        for i, found in sorted((int(i), found) for i, found in by_prefix(parts.get("specific", {})).items()):
            inner = by_prefix(found)
            self.specifics[i] = Specific(inner.get("dense", {}), found["ids"], found["rows"], inner.get("moments", {}))
        for role, found in by_prefix(parts.get("optimizer", {})).items():
            self.optimizers[role].load(found)

    def learned(self) -> Tensors:
        """Return copies of what scoring needs: theta_S, every theta_i, and the moments, kept together."""
        kept = ("shared/", "moments/", "specific/")
        return {name: value.clone() for name, value in self.tensors().items() if name.startswith(kept)}

    def weights_of(self, domain: int) -> Tensors:
        """Return theta_S + theta_i by parameter name; theta_S itself where the domain has no theta_i."""
        own = self.specifics.get(domain)
        if own is None:
            return self.shared
        weights = dict(self.shared)
        for name, value in own.dense.items():
            weights[name] = self.shared[name] + value
        if len(own.ids):
            weights[TABLE] = self.shared[TABLE].index_add(0, own.ids, own.rows)
        return weights

    def moments_of(self, domain: int) -> Tensors:
        """Return the moments that belong to `weights_of`."""
        own = self.specifics.get(domain)
        return own.moments if own is not None and own.moments else self.moments


def by_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensors]:
    """Group names `prefix/rest` by prefix; names without one are left out."""
    parts: dict[str, Tensors] = {}
    for name, value in tensors.items():
        prefix, slash, rest = name.partition("/")
        if slash:
            parts.setdefault(prefix, {})[rest] = value
    return parts
