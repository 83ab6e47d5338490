"""theta_i as a LoRA: Domain Negotiation on the backbone, Domain Regularization on U, D, s, b (methods.md 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from network.backbone import Backbone
from network.inputs import Batch
from network.lora import DomainAdapter, Lora, LoraStart, check_ranks
from network.tower import PlainLayer
from training.frameworks.config import LoraConfig
from training.frameworks.state import State
from training.frameworks.structure import Structure

_LORAS, _NORMS = "layer.loras.", "backbone.plain.norms."


class LoraStructure(Structure):
    """A backbone with a LoRA on its modules: theta_S holds zeros for the LoRA, theta_i everything of it.

    Norms' gamma and beta are the backbone's own parameters, so that theta_i holds them relative to theta_S; an exported
    adapter has them absolute.

    Args:
        backbone: of any kind.
        config: ranks of the modules, and how a LoRA starts.

    Raises:
        ShapeError: the ranks do not fit the backbone's modules.
    """

    batched = True

    def __init__(self, backbone: Backbone, config: LoraConfig) -> None:
        super().__init__()
        check_ranks(backbone.shape, config.ranks)
        self.embeddings = backbone.embeddings
        self.backbone = backbone
        self.layer = LoraLayer(backbone, config.ranks)
        self.start = LoraStart(config.down_std, config.scale_mean, config.scale_std)

    def forward(self, batch: Batch, domain: Tensor) -> Tensor:
        """Return the logits (n,) of the backbone with the LoRA."""
        logits: Tensor = self.backbone(batch, self.layer)
        return logits

    def shared_names(self) -> tuple[str, ...]:
        """All that the backbone has beside its tables."""
        return tuple(name for name in super().shared_names() if not name.startswith(_LORAS))

    def specific_names(self) -> tuple[str, ...]:
        """The LoRAs, and gamma and beta of the norms of the modules that have one."""
        return tuple(name for name in super().specific_names() if name.startswith((_LORAS, *self._norms())))

    def specific_start(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw `down` and `scale`; `up` and `shift` are zero, so that theta_S + theta_i starts as theta_S."""
        drawn: dict[str, Tensor] = {}
        for level, own in self.layer.adapted():
            fresh = Lora(own.down.shape[1], own.up.shape[0], own.down.shape[0])
            fresh.start(self.start, generator)
            drawn |= {f"{_LORAS}{level}.{key}": value for key, value in fresh.state_dict().items()}
        return drawn

    def adapter(self, backbone: Backbone, state: State, domain: int) -> DomainAdapter:
        """Return a domain's theta_i as an ordinary adapter, norms absolute.

        Args:
            backbone: of theta_S.
            state: what was learned.
            domain: which; one without a theta_i gets an adapter that changes nothing.
        """
        weights, moments = state.weights_of(domain), state.moments_of(domain)
        tensors: dict[str, Tensor] = {}
        for level, _ in self.layer.adapted():
            module = self.backbone.shape.modules[level]
            for key in ("down", "up", "scale", "shift"):
                tensors[f"{module.name}.{key}"] = weights[f"{_LORAS}{level}.{key}"]
            if module.norm:
                for key, found in (("weight", weights), ("bias", weights), ("mean", moments), ("var", moments)):
                    tensors[f"{module.name}.norm.{key}"] = found[f"{_NORMS}{level}.{key}"]
        adapter = DomainAdapter.untrained(backbone, self.layer.ranks, torch.Generator())
        adapter.load_tensors(tensors)
        return adapter.requires_grad_(False).eval()

    def _norms(self) -> tuple[str, ...]:
        modules = self.backbone.shape.modules
        return tuple(f"{_NORMS}{level}." for level, _ in self.layer.adapted() if modules[level].norm)


class LoraLayer(nn.Module):
    """The backbone's own layer with a LoRA added to each adapted module, itself a `TowerLayer`.

    Args:
        backbone: whose layer it is.
        ranks: of each module; 0 adapts it not.
    """

    def __init__(self, backbone: Backbone, ranks: Sequence[int]) -> None:
        super().__init__()
        self.ranks = tuple(ranks)
        self.plain: PlainLayer = backbone.plain
        modules = zip(backbone.shape.modules, ranks, strict=True)
        self.loras = nn.ModuleList(Lora(m.inputs, m.outputs, r) if r else nn.Identity() for m, r in modules)
        for _, lora in self.adapted():
            nn.init.zeros_(lora.scale)

    @property
    def dropout(self) -> float:
        """The backbone's."""
        return self.plain.dropout

    def forward(self, level: int, x: Tensor, linear: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the module's output, the LoRA's added before its norm. Source: MultiLoRA, Eq. 8."""
        lora = self.loras[level]
        adapted = linear if not isinstance(lora, Lora) else (lambda h: linear(h) + lora(h))
        out: Tensor = self.plain(level, x, adapted)
        return out

    def adapted(self) -> list[tuple[int, Lora]]:
        """The LoRAs, each with the number of its module."""
        return [(level, lora) for level, lora in enumerate(self.loras) if isinstance(lora, Lora)]
