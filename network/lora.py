"""LoRA: what one domain adds to the adaptable modules. Source: MultiLoRA, Eq. 7 to 9; methods.md 2, stage 2."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from network.adapted import Into, adapted
from network.backbone import Backbone
from network.errors import ShapeError
from network.inputs import NetworkShape
from network.norm import DomNorm, Moments
from network.tower import normed


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
    """One module's low-rank term: scale * (up (down x)) + shift.

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
        return functional.linear(functional.linear(x, self.down), self.scaled_up(), self.shift)

    def scaled_up(self) -> Tensor:
        """`up` (d, r) with the scale in it: it is smaller than what it makes, (n, d)."""
        up: Tensor = self.scale.unsqueeze(1) * self.up
        return up

    def beside(self, linear: Callable[[Tensor], Tensor], x: Tensor, into: Into | None = None) -> Tensor:
        """Return linear(x) and the LoRA's output together, (n, d).

        Args:
            linear: the module that it adapts.
            x: (n, k).
            into: what learns from the gradient of a constant x; of a frozen `nn.Linear` alone.

        Raises:
            ValueError: there is such, and the module is none.
        """
        if isinstance(linear, nn.Linear) and x.ndim == 2 and not linear.weight.requires_grad:
            return adapted(linear, x, self.down, self.scaled_up(), self.shift, into)
        if into is not None:
            raise ValueError("what learns from the gradient of a constant x needs a frozen nn.Linear")
        both: Tensor = linear(x) + self(x)
        return both


class DomainAdapter(nn.Module):
    """One domain's adapter, itself a `TowerLayer`: DomNorm(W0 x + b0 + LoRA x) at every module that it adapts.

    A module of rank 0 is left as the backbone has it, its norm included.

    Args:
        shape: the backbone's shape.
        ranks: r of each adaptable module, in the order of `NetworkShape.modules`; 0 adapts it not.
        dropout: probability of dropout in training mode (a key of its own, apart from the backbone's).
        moments: how its norms treat moments.

    Raises:
        ShapeError: there is not one rank for each module, or no module is adapted.
    """

    def __init__(
        self, shape: NetworkShape, ranks: Sequence[int], dropout: float = 0.0, moments: Moments = "compensated"
    ) -> None:
        super().__init__()
        check_ranks(shape, ranks)
        self.shape = shape
        self.ranks = tuple(ranks)
        self.dropout = dropout
        self.loras = nn.ModuleList(
            Lora(module.inputs, module.outputs, r) if r else nn.Identity()
            for module, r in zip(shape.modules, ranks, strict=True)
        )
        self.norms = nn.ModuleList(
            DomNorm(module.outputs, shape.norm_eps, shape.norm_momentum, moments == "frozen" or r == 0)
            for module, r in zip(shape.modules, ranks, strict=True)
            if module.norm
        )
        for norm, r in zip(self.norms, ranks, strict=False):
            norm.requires_grad_(r > 0)

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
        """Return the module's output (n, d), normed where it has a norm. Source: MultiLoRA, Eq. 8 and 9."""
        lora = self.lora(level)
        return normed(self.norms, level, linear(x) if lora is None else lora.beside(linear, x))

    def lora(self, level: int) -> Lora | None:
        """The LoRA of one module, None where it is not adapted."""
        lora = self.loras[level]
        return lora if isinstance(lora, Lora) else None

    def lora_modules(self) -> Iterator[Lora]:
        """The LoRAs, in the order of the modules."""
        return (lora for lora in self.loras if isinstance(lora, Lora))

    def dom_norms(self) -> Iterator[DomNorm]:
        """The norms that are the domain's own, bottom to top."""
        return (self.norm(level) for level in range(len(self.norms)) if self.ranks[level])

    def norm(self, level: int) -> DomNorm:
        """The norm after one hidden layer: the domain's own, or the backbone's where the layer is not adapted."""
        norm = self.norms[level]
        assert isinstance(norm, DomNorm)
        return norm

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
            for module, rank, part in zip(self.shape.modules, self.ranks, modules, strict=False):
                if rank:
                    live |= {f"{module.name}.{kind}{key}": value for key, value in part.state_dict().items()}
        return live


def check_ranks(shape: NetworkShape, ranks: Sequence[int]) -> None:
    """Refuse ranks that are not one for each adaptable module, or that adapt none.

    Raises:
        ShapeError: they are not.
    """
    modules = shape.modules
    if len(ranks) != len(modules):
        names = ", ".join(module.name for module in modules)
        raise ShapeError(
            f"{len(ranks)} ranks for {len(modules)} adaptable modules ({names}): give one for each, 0 adapts it not"
        )
    if not any(ranks) or min(ranks) < 0:
        raise ShapeError(f"ranks {tuple(ranks)} adapt nothing: give at least one module a rank of 1 or more")


def norm_tensors(norms: Mapping[str, DomNorm], prefix: str = "") -> dict[str, Tensor]:
    """Return norms' tensors, by module, under an artifact's names: `<prefix><module>.norm.<weight|bias|mean|var>`."""
    return {
        f"{prefix}{module}.norm.{key}": value.clone()
        for module, norm in norms.items()
        for key, value in norm.state_dict().items()
    }
