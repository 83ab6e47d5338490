"""MMoE: experts shared by all domains, mixed by a gate for each domain."""

from __future__ import annotations

from torch import Tensor, nn

from network.grouping import Grouping
from network.inputs import NetworkShape
from training.baselines.baseline import Baseline, by_domain
from training.baselines.layers import Experts, Gates, Head, mixed
from training.baselines.settings import MmoeSettings
from training.baselines.shared_bottom import split_tower


class Mmoe(Baseline):
    """y_k = h^k(f^k(x)); f^k(x) = sum_i g^k(x)_i f_i(x); g^k(x) = softmax(W_gk x).

    Source: Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts (KDD 2018),
    Eq. 6, 7, 8.
    departs from the paper: tasks are domains, and a row belongs to one, so that only its own gate and tower are
    computed.

    Args:
        shape: fields, widths and constants.
        domains: how many natural domains there are.
        settings: experts, and widths of f and h.
    """

    def __init__(self, shape: NetworkShape, domains: int, settings: MmoeSettings) -> None:
        super().__init__(shape, domains)
        bottom, tower = split_tower(shape, settings)
        self.experts = Experts(shape.input_width, bottom, settings.experts, self.recipe)
        self.gates = Gates(domains, shape.input_width, settings.experts)
        self.towers = nn.ModuleList(Head(self.experts.width, tower, self.recipe) for _ in range(domains))

    def _logits(self, x: Tensor, grouping: Grouping) -> Tensor:
        outputs = self.experts(x)
        return by_domain(
            grouping, lambda domain, rows: self.towers[domain](mixed(self.gates(domain, x[rows]), outputs[rows]))
        )
