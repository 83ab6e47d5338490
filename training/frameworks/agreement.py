"""How much domains' gradients agree: their mean inner product, which Domain Negotiation is to raise.

Source: MAMDR, Eq. 21: (1 / (n (n - 1))) sum over i != j of <g_i, g_j>, g_i the gradient of domain i's mean loss at the
same weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.frameworks.inner import LabelledBatch, loss_and_gradients
from training.frameworks.setting import Setting
from training.frameworks.state import State, Tensors
from training.frameworks.structure import TABLE


@dataclass(frozen=True)
class Agreement:
    """Inner products of the domains' gradients.

    Args:
        domains: positions of the n domains that have rows.
        inner: (n, n) <g_i, g_j>.
        loss: mean over the domains of their mean losses, at the same weights.
    """

    domains: tuple[int, ...]
    inner: NDArray[np.float64]
    loss: float = float("nan")

    @property
    def mean_inner(self) -> float:
        """Mean inner product over pairs of different domains; NaN for fewer than two."""
        return _off_diagonal_mean(self.inner)

    def mean_inner_with(self, domain: int) -> float:
        """Mean inner product over the pairs of which one is this domain; NaN where it is the only one."""
        place = self.domains.index(domain)
        return float(np.delete(self.inner[place], place).mean()) if len(self.domains) > 1 else float("nan")

    def mean_inner_without(self, domain: int) -> float:
        """Mean inner product over pairs of other domains than this; NaN for fewer than two of them."""
        place = self.domains.index(domain)
        return _off_diagonal_mean(np.delete(np.delete(self.inner, place, 0), place, 1))

    @property
    def mean_cosine(self) -> float:
        """Mean cosine over pairs of different domains, which the gradients' lengths do not move."""
        length = np.sqrt(np.diag(self.inner))
        return _off_diagonal_mean(self.inner / np.maximum(np.outer(length, length), 1e-300))


@dataclass(frozen=True)
class Gradient:
    """The gradient of one domain's mean loss.

    Args:
        dense: by parameter name.
        ids: (u,) int64, rows of `embeddings.table` that have one.
        rows: (u, E) theirs.
        loss: the mean loss itself.
    """

    dense: Tensors
    ids: Tensor
    rows: Tensor
    loss: float

    @classmethod
    def of(cls, setting: Setting, values: Tensors, batches: Iterable[LabelledBatch]) -> Gradient:
        """Average the gradients of batches, weighted by their rows, in float64.

        Args:
            setting: the network, and what of it learns.
            values: every parameter by name.
            batches: at least one row.
        """
        names = setting.shared_names
        dense = {name: torch.zeros_like(values[name], dtype=torch.float64) for name in names if name != TABLE}
        table = torch.zeros_like(values[TABLE], dtype=torch.float64)
        seen, loss = 0, 0.0
        for batch in batches:
            own, found = loss_and_gradients(setting.structure, values, names, batch)
            seen, loss = seen + len(batch), loss + float(own) * len(batch)
            for name, value in found.items():
                (table if name == TABLE else dense[name]).add_(value.double(), alpha=len(batch))
        ids = table.abs().sum(1).nonzero().squeeze(1)
        return cls({name: value / seen for name, value in dense.items()}, ids, table[ids] / seen, loss / seen)


def agreement(setting: Setting, state: State, rows: Sequence[Tensor], batch_rows: int = 8192) -> Agreement:
    """Measure how much the domains' gradients agree at theta_S, in eval mode: no dropout, running moments.

    Args:
        setting: network and data.
        state: what was learned.
        rows: positions for each domain, such as `setting.domains.train`; domains without rows are left out.
        batch_rows: read at a time; bounds memory, changes no result beyond rounding.

    Returns:
        Inner products of the gradients of theta_S's parameters, embeddings included where they learn. Between epochs
        theta_S is where the next inner loop starts, which is where the paper's expansion takes the gradients.
    """
    setting.structure.load_moments(state.moments)
    domains = tuple(domain for domain, part in enumerate(rows) if len(part))
    gradients = []
    for domain in domains:
        setting.structure.eval()
        batches = map(setting.labelled, torch.split(rows[domain], batch_rows))
        gradients.append(Gradient.of(setting, state.shared, batches))
    inner = np.array([_products(one, gradients, state.shared[TABLE].shape) for one in gradients])
    loss = float(np.mean([one.loss for one in gradients])) if gradients else float("nan")
    return Agreement(domains, inner.reshape(len(domains), len(domains)), loss)


def _products(one: Gradient, others: Sequence[Gradient], table: torch.Size) -> list[float]:
    """<one, other> for each of the others; of the table only rows that both have count."""
    spread = torch.zeros(table, dtype=torch.float64).index_copy_(0, one.ids, one.rows)
    found = []
    for other in others:
        dense = sum(float((one.dense[name] * value).sum()) for name, value in other.dense.items())
        found.append(dense + float((spread[other.ids] * other.rows).sum()))
    return found


def _off_diagonal_mean(matrix: NDArray[np.float64]) -> float:
    n = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (n * (n - 1))) if n > 1 else float("nan")
