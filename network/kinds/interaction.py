"""What the kinds of backbone share: an interaction of the fields, before and beside the tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from network.embeddings import LookedUp
from network.inputs import NetworkShape
from network.tower import TowerLayer


@dataclass(frozen=True)
class Interacted:
    """What the fields' interaction gives to the rest of the network.

    Args:
        tower: (n, k) the tower's input.
        beside: (n, b) what stands before the tower's output in the output layer's input; None is nothing.
        added: (n, 1) what is added to the logit; None is nothing.
    """

    tower: Tensor
    beside: Tensor | None = None
    added: Tensor | None = None


class Interaction(nn.Module):
    """The part of a backbone that its kind decides.

    Args:
        shape: of the backbone.
    """

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.first = len(shape.tower)
        """Number of the interaction's first adaptable module; the tower's come before it."""

    def forward(self, looked: LookedUp, layer: TowerLayer) -> Interacted:
        """Let the fields of n rows interact.

        Args:
            looked: what the lookup gave.
            layer: stands between an adaptable module's input and its output, as in the tower.
        """
        raise NotImplementedError

    def linears(self) -> Sequence[nn.Linear]:
        """The adaptable modules, as `NetworkShape.modules` names them after the tower's."""
        return ()

    def live(self) -> dict[str, Tensor]:
        """Return the tensors themselves under their names in a bundle."""
        return {name: value.detach() for name, value in self.state_dict().items()}
