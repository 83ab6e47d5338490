"""Frameworks that look a step ahead and learn through it: MAML and MLDG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from training.frameworks.inner import LabelledBatch, loss_and_gradients, loss_of
from training.frameworks.joint import Joint
from training.frameworks.local_rows import BatchRows, localizable
from training.frameworks.setting import Setting
from training.frameworks.structure import TABLE
from training.seeds import Stream

Tensors = dict[str, Tensor]
_HALVES = 2


class Maml(Joint):
    """Each domain's rows of a step are halved: SGD steps on the first half, the loss counts on the second.

    theta <- theta - step of sum over domains of grad L_query(theta - lr grad L_support(theta)). Source: Finn et al.
    (ICML 2017), algorithm 2; `order: 1` leaves the second derivative out. A domain with a single row sits it out.
    """

    @property
    def least_rows(self) -> int:
        """One to learn from, and one to judge by."""
        return _HALVES

    def gradients(self, values: Tensors, batches: dict[int, LabelledBatch], stream: Stream) -> tuple[float, Tensors]:
        """Return the summed meta-gradients of the domains."""
        halves = [halved(batch) for batch in batches.values() if len(batch) >= _HALVES]
        found = [on_own_rows(self.setting, values, [*half], self._task) for half in halves]
        return mean_loss(found), summed([gradients for _, gradients in found], values)

    def _task(self, values: Tensors, half: Sequence[LabelledBatch]) -> tuple[float, Tensors]:
        support, query = half
        setting, ahead = self.setting, self.setting.config.look_ahead
        names = setting.shared_names
        if ahead.order == 1:
            moved = dict(values)
            for _ in range(ahead.steps):
                _, gradients = loss_and_gradients(setting.structure, moved, names, support)
                moved |= {name: moved[name] + gradient * -ahead.lr for name, gradient in gradients.items()}
            loss, gradients = loss_and_gradients(setting.structure, moved, names, query)
            return float(loss), gradients
        leaves = {name: values[name].detach().requires_grad_() for name in names}
        moved = {**values, **leaves}
        for _ in range(ahead.steps):
            moved |= stepped(moved, names, loss_of(setting.structure, moved, support), ahead.lr)
        loss = loss_of(setting.structure, moved, query)
        return float(loss.detach()), gradients_by_rows(loss, leaves)


class Mldg(Joint):
    """Each step parts the domains: F is the loss on some, G that of the others after a step on F; F + weight G counts.

    Source: Li et al. (AAAI 2018), algorithm 1. With `legacy_rules` each domain's rows are parted instead of the
    domains, as in MAMDR's released code.
    """

    @property
    def least_rows(self) -> int:
        """Where a domain's own rows are parted, one for each part."""
        return _HALVES if self.setting.config.legacy_rules else 1

    def gradients(self, values: Tensors, batches: dict[int, LabelledBatch], stream: Stream) -> tuple[float, Tensors]:
        """Return the gradients of F + weight G."""
        if self.setting.config.legacy_rules:
            halves = [halved(batch) for batch in batches.values() if len(batch) >= _HALVES]
            found = [self._own(values, [train], [test]) for train, test in halves]
            return mean_loss(found), summed([gradients for _, gradients in found], values)
        train, test = self._parted(list(batches.values()), stream)
        loss, gradients = self._own(values, train, test)
        return loss, summed([gradients], values)

    def _parted(
        self, batches: Sequence[LabelledBatch], stream: Stream
    ) -> tuple[list[LabelledBatch], list[LabelledBatch]]:
        """Domains to train and to test on; at least one of each where there are two."""
        order = torch.randperm(len(batches), generator=stream.generator()).tolist()
        share = round(len(batches) * self.setting.config.look_ahead.test_share)
        tested = min(max(share, 1), len(batches) - 1)
        return [batches[i] for i in order[tested:]], [batches[i] for i in order[:tested]]

    def _own(
        self, values: Tensors, train: Sequence[LabelledBatch], test: Sequence[LabelledBatch]
    ) -> tuple[float, Tensors]:
        cut = len(train)
        run = lambda weights, both: self._objective(weights, both[:cut], both[cut:])  # noqa: E731
        return on_own_rows(self.setting, values, [*train, *test], run)

    def _objective(
        self, values: Tensors, train: Sequence[LabelledBatch], test: Sequence[LabelledBatch]
    ) -> tuple[float, Tensors]:
        setting, ahead = self.setting, self.setting.config.look_ahead
        names = setting.shared_names
        leaves = {name: values[name].detach().requires_grad_() for name in names}
        before = {**values, **leaves}
        first = self._mean(before, train)
        if not test:
            return float(first.detach()), gradients_by_rows(first, leaves)
        after = before | stepped(before, names, first, ahead.lr, through=ahead.order == 2)
        both = first + ahead.weight * self._mean(after, test)
        return float(first.detach()), gradients_by_rows(both, leaves)

    def _mean(self, values: Tensors, batches: Sequence[LabelledBatch]) -> Tensor:
        """The mean over domains of their mean losses."""
        return torch.stack([loss_of(self.setting.structure, values, batch) for batch in batches]).mean()


def on_own_rows(
    setting: Setting,
    values: Tensors,
    batches: Sequence[LabelledBatch],
    run: Callable[[Tensors, Sequence[LabelledBatch]], tuple[float, Tensors]],
) -> tuple[float, Tensors]:
    """Run what differentiates through a step on the rows of the table that its batches read; the result is the same.

    Through a step the table's gradient is dense, and a table is large. Where rows cannot be numbered anew, it runs on
    the whole one.

    Args:
        setting: the network, and what of it learns.
        values: every parameter by name.
        batches: what `run` reads.
        run: gives a loss and gradients by name, of weights and batches.
    """
    if TABLE not in setting.shared_names or not localizable(setting.structure):
        return run(values, batches)
    rows = BatchRows.of(setting.structure, batches)
    loss, gradients = run({**values, TABLE: values[TABLE][rows.ids]}, rows.batches)
    if TABLE in gradients:
        gradients[TABLE] = rows.widened(gradients[TABLE], values[TABLE].shape)
    return loss, gradients


def stepped(values: Tensors, names: Sequence[str], loss: Tensor, lr: float, through: bool = True) -> Tensors:
    """Return the named weights after one step of SGD, differentiable in the weights before it.

    Args:
        values: weights by name, part of the loss's graph.
        names: which of them step.
        loss: at these weights.
        lr: step size.
        through: also differentiate the gradient itself (second order).
    """
    found = torch.autograd.grad(
        loss, [values[name] for name in names], create_graph=through, retain_graph=True, allow_unused=True
    )
    return {
        name: values[name] if gradient is None else values[name] - lr * gradient
        for name, gradient in zip(names, found, strict=True)
    }


def gradients_by_rows(loss: Tensor, leaves: Mapping[str, Tensor]) -> Tensors:
    """Return gradients by name; of the table the rows that are not zero, coalesced."""
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    named = {name: value for name, value in zip(leaves, found, strict=True) if value is not None}
    if TABLE in named:
        named[TABLE] = _rows(named[TABLE])
    return named


def summed(gradients: Sequence[Mapping[str, Tensor]], values: Tensors) -> Tensors:
    """Return the sum of gradients by name."""
    total: Tensors = {}
    for found in gradients:
        for name, gradient in found.items():
            total[name] = total[name] + gradient if name in total else gradient
    if TABLE in total:
        total[TABLE] = total[TABLE].coalesce()
    return total


def halved(batch: LabelledBatch) -> tuple[LabelledBatch, LabelledBatch]:
    """Return the first and the second half of a batch's rows; of an odd number the second has one more."""
    rows = torch.arange(len(batch))
    first, second = rows[: len(batch) // 2], rows[len(batch) // 2 :]
    return _taken(batch, first), _taken(batch, second)


def mean_loss(found: Sequence[tuple[float, Tensors]]) -> float:
    """Return the mean of the tasks' losses; zero where no task had rows enough."""
    return sum(loss for loss, _ in found) / max(len(found), 1)


def _taken(batch: LabelledBatch, rows: Tensor) -> LabelledBatch:
    return LabelledBatch(batch.inputs.take(rows), batch.domain[rows], batch.label[rows])


def _rows(gradient: Tensor) -> Tensor:
    ids = gradient.abs().sum(1).nonzero().squeeze(1)
    return torch.sparse_coo_tensor(
        ids.unsqueeze(0), gradient[ids], gradient.shape, is_coalesced=True, check_invariants=False
    )
