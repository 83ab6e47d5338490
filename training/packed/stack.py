"""What many domains have of their own as two tensors: a row holds all that one learns, or all its moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from network.inputs import NetworkShape

Shapes = Mapping[str, tuple[int, ...]]
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """Where each tensor of a domain lies in its rows of the stack.

    Args:
        learned: name to shape, of what is trained.
        moments: name to shape, of the norms' running moments.
    """

    learned: Shapes
    moments: Shapes

    @property
    def learned_width(self) -> int:
        """Numbers that one domain learns."""
        return sum(map(prod, self.learned.values()))

    @property
    def moments_width(self) -> int:
        """Numbers of one domain's running moments."""
        return sum(map(prod, self.moments.values()))

    def cut(self, stack: Stack) -> Tensors:
        """Return every tensor (t, ...) of the stack's domains, by name, as views.

        One split, for its gradient is one concatenation; that of a slice is a whole stack of zeros.
        """
        return _cut(stack.learned, self.learned) | _cut(stack.moments, self.moments)

    def stacked(self, domains: Sequence[Mapping[str, Tensor]]) -> Stack:
        """Stack what several domains have; the stack shares no memory with them."""
        learned, moments = (
            torch.stack([torch.cat([own[name].flatten() for name in names] or [torch.empty(0)]) for own in domains])
            for names in (self.learned, self.moments)
        )
        return Stack(learned, moments)

    def unstacked(self, stack: Stack) -> list[Tensors]:
        """Return each domain's tensors, as views."""
        tensors = self.cut(stack)
        return [{name: value[row] for name, value in tensors.items()} for row in range(len(stack))]


def lora_layout(shape: NetworkShape, ranks: Sequence[int]) -> Layout:
    """Lay out the tensors of a `DomainAdapter`, under their names in an artifact.

    Args:
        shape: the backbone's shape.
        ranks: r of each adaptable module; 0 adapts it not.
    """
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
    return Layout(learned, moments)


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


def _cut(flat: Tensor, shapes: Shapes) -> Tensors:
    if not shapes:
        return {}
    parts = torch.split(flat, [prod(shape) for shape in shapes.values()], dim=1)
    return {name: torch.unflatten(part, 1, shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
