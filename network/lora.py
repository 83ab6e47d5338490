"""LoRA: what one domain adds to the tower's hidden layers. Source: MultiLoRA, Eq. 7 to 9; methods.md 2, stage 2."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from network.backbone import Backbone
from network.errors import ShapeError
from network.inputs import NetworkShape
from network.norm import DomNorm, Moments


@dataclass(frozen=True)
class LoraStart:
    """How a LoRA starts; `up` and `shift` are always zero, so that an untouched adapter is the backbone.

    Args:
        down_std: standard deviation of `down`; None is 1 / sqrt(k).
        scale_mean: mean of `scale`.
        scale_std: standard deviation of `scale`.
    """

    down_std: float | None = None
    scale_mean: float = 0.0
    scale_std: float = 1.0


def domain_generator(seed: int, division: str, domain: str) -> torch.Generator:
    """Return the random source of one domain, which no other domain's presence moves."""
    key = hashlib.sha256(f"{seed}\x00{division}\x00{domain}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)


class Lora(nn.Module):
    """One hidden layer's low-rank term: scale * (up (down x)) + shift.

    In the papers' letters s * (U (D x)) + b (MultiLoRA, Eq. 7, 8).

    Args:
        inputs: width k of the layer's input.
        outputs: width d of its output.
        rank: r.
    """

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.zeros(rank, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        self.scale = nn.Parameter(torch.ones(outputs))
        self.shift = nn.Parameter(torch.zeros(outputs))

    @torch.no_grad()
    def start(self, start: LoraStart, generator: torch.Generator) -> None:
        """Draw `down` and `scale`; zero the rest."""
        std = 1 / math.sqrt(self.down.shape[1]) if start.down_std is None else start.down_std
        self.down.normal_(0.0, std, generator=generator)
        self.scale.normal_(start.scale_mean, start.scale_std, generator=generator)
        self.up.zero_()
        self.shift.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Return the LoRA's output (n, d) for the layer's input x (n, k)."""
        low = functional.linear(functional.linear(x, self.down), self.up)
        return self.scale * low + self.shift


class DomainAdapter(nn.Module):
    """One domain's adapter, itself a `TowerLayer`: DomNorm(W0 x + b0 + LoRA x) at every hidden layer.

    Args:
        shape: the backbone's shape.
        ranks: r of each hidden layer.
        dropout: probability of dropout in training mode (a key of its own, apart from the backbone's).
        moments: how its norms treat moments.
    """

    def __init__(
        self, shape: NetworkShape, ranks: Sequence[int], dropout: float = 0.0, moments: Moments = "compensated"
    ) -> None:
        super().__init__()
        if len(ranks) != len(shape.tower):
            raise ShapeError(f"{len(ranks)} ranks for {len(shape.tower)} hidden layers: give one rank for each layer")
        self.dropout = dropout
        self.loras = nn.ModuleList(Lora(k, d, r) for (k, d), r in zip(shape.layers, ranks, strict=True))
        frozen = moments == "frozen"
        self.norms = nn.ModuleList(DomNorm(d, shape.norm_eps, shape.norm_momentum, frozen) for d in shape.tower)

    @classmethod
    def untrained(
        cls,
        backbone: Backbone,
        ranks: Sequence[int],
        generator: torch.Generator,
        *,
        start: LoraStart | None = None,
        dropout: float = 0.0,
        moments: Moments = "compensated",
    ) -> DomainAdapter:
        """Return a fresh adapter whose logits are the backbone's, bit for bit in eval mode."""
        adapter = cls(backbone.shape, ranks, dropout, moments)
        for lora in adapter.lora_modules():
            lora.start(start or LoraStart(), generator)
        for norm, own in zip(adapter.norms, backbone.plain.norms, strict=True):
            norm.load_state_dict(own.state_dict())
        return adapter

    def forward(self, level: int, x: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the normed pre-activation (n, d). Source: MultiLoRA, Eq. 8 and 9."""
        normed: Tensor = self.norms[level](linear(x) + self.loras[level](x))
        return normed

    def lora_modules(self) -> Iterator[Lora]:
        """The LoRAs, bottom to top."""
        for lora in self.loras:
            assert isinstance(lora, Lora)
            yield lora

    def dom_norms(self) -> Iterator[DomNorm]:
        """The norms, bottom to top."""
        for norm in self.norms:
            assert isinstance(norm, DomNorm)
            yield norm

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor under its name in an artifact, each a detached copy."""
        return {name: value.clone() for name, value in self._live().items()}

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take every tensor from an artifact's names.

        Raises:
            ShapeError: a tensor is missing or of another shape.
        """
        for name, own in self._live().items():
            value = tensors.get(name)
            if value is None or value.shape != own.shape:
                found = "missing" if value is None else f"of shape {tuple(value.shape)}"
                raise ShapeError(f"{name} is {found}, this adapter needs {tuple(own.shape)}")
            own.copy_(value)

    def _live(self) -> dict[str, Tensor]:
        """The tensors themselves, detached but not copied, under an artifact's names."""
        live: dict[str, Tensor] = {}
        for kind, modules in (("", self.loras), ("norm.", self.norms)):
            for level, module in enumerate(modules):
                live |= {f"tower.{level}.{kind}{key}": value for key, value in module.state_dict().items()}
        return live


def norm_tensors(norms: Sequence[DomNorm], prefix: str = "") -> dict[str, Tensor]:
    """Return the norms' tensors under an artifact's names: `<prefix>tower.<l>.norm.<weight|bias|mean|var>`."""
    return {
        f"{prefix}tower.{level}.norm.{key}": value.clone()
        for level, norm in enumerate(norms)
        for key, value in norm.state_dict().items()
    }
