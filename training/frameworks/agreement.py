"""How much domains' gradients agree: their mean inner product, which Domain Negotiation is to raise.

Source: MAMDR, Eq. 21: (1 / (n (n - 1))) sum over i != j of <g_i, g_j>, g_i the gradient of domain i's mean loss at the
same weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
        return cls._sparse({name: value / seen for name, value in dense.items()}, table / seen, loss / seen)

    @classmethod
    def mean(cls, each: Sequence[Gradient], table: torch.Size) -> Gradient:
        """Return the mean of gradients of the same parameters; `table` is the shape of `embeddings.table`."""
        dense = {name: torch.stack([one.dense[name] for one in each]).mean(0) for name in each[0].dense}
        rows = torch.stack([one.spread(table) for one in each]).mean(0)
        return cls._sparse(dense, rows, float(np.mean([one.loss for one in each])))

    @classmethod
    def _sparse(cls, dense: Tensors, table: Tensor, loss: float) -> Gradient:
        ids = table.abs().sum(1).nonzero().squeeze(1)
        return cls(dense, ids, table[ids], loss)

    def spread(self, table: torch.Size) -> Tensor:
        """Return the rows in a table of this shape, zeros between them; float64."""
        return torch.zeros(table, dtype=torch.float64).index_copy_(0, self.ids, self.rows)


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
    found = gradients(setting, state, rows, batch_rows)
    return _agreement(found, state.shared[TABLE].shape)


def gradients(setting: Setting, state: State, rows: Sequence[Tensor], batch_rows: int = 8192) -> dict[int, Gradient]:
    """Return the gradient of each domain's mean loss at theta_S, by the domain's position; as `agreement` has them."""
    setting.structure.load_moments(state.moments)
    found = {}
    for domain, part in enumerate(rows):
        if len(part):
            setting.structure.eval()
            batches = map(setting.labelled, torch.split(part, batch_rows))
            found[domain] = Gradient.of(setting, state.shared, batches)
    return found


def agreement_apart(draws: Sequence[Mapping[int, Gradient]], table: torch.Size) -> tuple[Agreement, Agreement]:
    """Measure the agreement of gradients at one draw of theta_S, and at two drawn independently of each other.

    An epoch ends where the order of its domains left it, and the others agree in undoing the last one's visit. With
    theta a random end, E<g_i(theta), g_j(theta)> = <E g_i, E g_j> + tr Cov(g_i, g_j); the second term is that of the
    draw. The mean of <g_i(theta^k), g_j(theta^l)> over k != l is an unbiased estimate of the first term alone.

    Args:
        draws: K >= 2 times `gradients`, of the same domains, at independent ends of one epoch from one start.
        table: shape of `embeddings.table`.

    Returns:
        Means over the draws of <g_i^k, g_j^k>, and over pairs of draws of <g_i^k, g_j^l>. The diagonal of the second
        may be negative where little is known, and its cosine is then not a number.

    Raises:
        ValueError: fewer than two draws.
    """
    count = len(draws)
    if count < 2:
        raise ValueError(f"draws: {count} given, and it takes two or more to tell a draw from what all have in common")
    each = [_agreement(found, table) for found in draws]
    one = np.mean([found.inner for found in each], axis=0)
    means = {domain: Gradient.mean([found[domain] for found in draws], table) for domain in draws[0]}
    both = (count * _agreement(means, table).inner - one) / (count - 1)
    loss = float(np.mean([found.loss for found in each]))
    return Agreement(each[0].domains, one, loss), Agreement(each[0].domains, both, loss)


def _agreement(found: Mapping[int, Gradient], table: torch.Size) -> Agreement:
    each = list(found.values())
    inner = np.array([_products(one, each, table) for one in each])
    loss = float(np.mean([one.loss for one in each])) if each else float("nan")
    return Agreement(tuple(found), inner.reshape(len(each), len(each)), loss)


def _products(one: Gradient, others: Sequence[Gradient], table: torch.Size) -> list[float]:
    """<one, other> for each of the others; of the table only rows that both have count."""
    spread = one.spread(table)
    found = []
    for other in others:
        dense = sum(float((one.dense[name] * value).sum()) for name, value in other.dense.items())
        found.append(dense + float((spread[other.ids] * other.rows).sum()))
    return found


def _off_diagonal_mean(matrix: NDArray[np.float64]) -> float:
    n = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (n * (n - 1))) if n > 1 else float("nan")
