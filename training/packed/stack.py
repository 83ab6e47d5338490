"""The adapters of many domains as two tensors: a row holds all that one domain learns, or all its moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from network.inputs import NetworkShape
from network.lora import DomainAdapter

Shapes = Mapping[str, tuple[int, ...]]


class Layout:
    """Where each tensor of an adapter lies in a row of the stack, under its name in an artifact.

    Args:
        shape: the backbone's shape.
        ranks: r of each adaptable module; 0 adapts it not.
    """

    def __init__(self, shape: NetworkShape, ranks: Sequence[int]) -> None:
        learned: dict[str, tuple[int, ...]] = {}
        moments: dict[str, tuple[int, ...]] = {}
        for module, r in zip(shape.modules, ranks, strict=True):
            if not r:
                continue
            name, d = module.name, (module.outputs,)
            learned |= {f"{name}.down": (r, module.inputs), f"{name}.up": (module.outputs, r)}
            learned |= {f"{name}.scale": d, f"{name}.shift": d}
            if module.norm:
                learned |= {f"{name}.norm.weight": d, f"{name}.norm.bias": d}
                moments |= {f"{name}.norm.mean": d, f"{name}.norm.var": d}
        self.learned: Shapes = learned
        self.moments: Shapes = moments

    @property
    def learned_width(self) -> int:
        """Numbers that one domain learns."""
        return sum(map(prod, self.learned.values()))

    @property
    def moments_width(self) -> int:
        """Numbers of one domain's running moments."""
        return sum(map(prod, self.moments.values()))

    def cut(self, stack: Stack) -> dict[str, Tensor]:
        """Return every tensor (t, ...) of the stack's domains, by name, as views.

        One split, for its gradient is one concatenation; that of a slice is a whole stack of zeros.
        """
        return _cut(stack.learned, self.learned) | _cut(stack.moments, self.moments)

    def stacked(self, adapters: Sequence[DomainAdapter]) -> Stack:
        """Stack adapters of this shape; the stack shares no memory with them."""
        every = [adapter.tensors() for adapter in adapters]
        learned, moments = (
            torch.stack([torch.cat([own[name].flatten() for name in names] or [torch.empty(0)]) for own in every])
            for names in (self.learned, self.moments)
        )
        return Stack(learned, moments)

    def unstack(self, stack: Stack, adapters: Sequence[DomainAdapter]) -> None:
        """Put each row into the adapter of its place."""
        tensors = self.cut(stack)
        for place, adapter in enumerate(adapters):
            adapter.load_tensors({name: value[place] for name, value in tensors.items()})


@dataclass(frozen=True)
class Stack:
    """What t domains have of their own.

    Args:
        learned: (t, P) one domain's parameters a row.
        moments: (t, M) the running moments of its norms.
    """

    learned: Tensor
    moments: Tensor

    def __len__(self) -> int:
        return len(self.learned)

    def leading(self, count: int) -> Stack:
        """Return the first domains, as views."""
        return Stack(self.learned[:count], self.moments[:count])

    def take(self, places: Tensor) -> Stack:
        """Return a copy of the domains at some places."""
        return Stack(self.learned.index_select(0, places), self.moments.index_select(0, places))

    def put(self, places: Tensor, other: Stack) -> None:
        """Overwrite the domains at some places."""
        self.learned.index_copy_(0, places, other.learned)
        self.moments.index_copy_(0, places, other.moments)


def _cut(flat: Tensor, shapes: Shapes) -> dict[str, Tensor]:
    if not shapes:
        return {}
    parts = torch.split(flat, [prod(shape) for shape in shapes.values()], dim=1)
    return {name: part.unflatten(1, shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
