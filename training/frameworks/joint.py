"""Frameworks whose every step sees a batch of each domain: uncertainty weighting and PCGrad."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from training.frameworks.inner import LabelledBatch, Weights, apply_gradients, loss_and_gradients, used_rows
from training.frameworks.setting import Setting
from training.frameworks.state import State
from training.frameworks.structure import TABLE
from training.seeds import Stream

LOG_VARIANCE = "log_variance"


def joint_steps(setting: Setting, stream: Stream, least: int = 1) -> Iterator[dict[int, Tensor]]:
    """Cut one pass over all rows into steps, each with a part of every domain.

    There are as many steps as the largest domain has batches, or as all rows have (`joint_steps`); a smaller domain's
    rows are spread over them, and a step may have none of it. A step that no domain has rows for is left out.

    Args:
        setting: the rows, and what a batch is.
        stream: of their order.
        least: rows of a domain in a step that has any of it; a domain that has fewer in all has them in one step.

    Yields:
        domain -> positions of its rows, in order of the domains; at least one.
    """
    train = setting.domains.train
    sizes = [len(rows) for rows in train]
    passed = max(sizes) if setting.config.joint_steps == "largest" else sum(sizes)
    steps = math.ceil(passed / setting.config.batch_rows)
    parts: dict[int, tuple[Tensor, ...]] = {}
    for domain in setting.domains.trained:
        rows = train[domain]
        order = torch.randperm(len(rows), generator=stream.of(setting.domains.names[domain]).generator())
        dealt = len(rows) // least
        cuts = [dealt * step // steps * least for step in range(1, steps)]
        parts[domain] = torch.tensor_split(rows[order], cuts)
    for step in range(steps):
        if found := {domain: part[step] for domain, part in parts.items() if len(part[step])}:
            yield found


class Joint:
    """A framework that takes joint steps; what a step does is a subclass's.

    Args:
        setting: what it works on.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    @property
    def least_rows(self) -> int:
        """Rows that a step needs of a domain to learn from it."""
        return 1

    def start(self) -> State:
        """Return the state before the first epoch."""
        return self.setting.start()

    def epoch(self, state: State, number: int) -> float:
        """Pass over all rows once."""
        setting = self.setting
        stream = setting.stream.of("joint", number)
        weights = Weights.starting({**state.shared, **state.extra})
        setting.structure.load_moments(state.moments)
        optimizer = setting.inner_optimizer(state)
        setting.structure.train()
        loss, rows = 0.0, 0
        with stream.of("dropout").ambient():
            for step, parts in enumerate(joint_steps(setting, stream.of("order"), self.least_rows)):
                batches = {domain: setting.labelled(positions) for domain, positions in parts.items()}
                found, gradients = self.gradients(weights.values, batches, stream.of("step", step))
                optimizer.begin()
                apply_gradients(weights, gradients, optimizer)
                passed = sum(map(len, batches.values()))
                loss, rows = loss + found * passed, rows + passed
                setting.advance(passed)
        state.extra = {name: weights.values.pop(name) for name in state.extra}
        state.shared = weights.values
        setting.measure(state)
        return loss / max(rows, 1)

    def gradients(
        self, values: dict[str, Tensor], batches: dict[int, LabelledBatch], stream: Stream
    ) -> tuple[float, dict[str, Tensor]]:
        """Return the mean loss that is shown, and the gradients by name; that of the table coalesced.

        Args:
            values: every parameter, and what the framework keeps besides.
            batches: by domain.
            stream: of the step's random numbers.
        """
        raise NotImplementedError


class Weighted(Joint):
    """The domains' mean losses L_i weighted by learned uncertainty: sum of exp(-s_i) L_i + s_i / 2.

    s_i = log sigma_i^2. Source: Kendall et al. (CVPR 2018), Eq. 10 for classification.
    """

    def start(self) -> State:
        """Return the state before the first epoch; every domain weighs the same."""
        state = super().start()
        state.extra[LOG_VARIANCE] = torch.zeros(len(self.setting.domains))
        return state

    def gradients(
        self, values: dict[str, Tensor], batches: dict[int, LabelledBatch], stream: Stream
    ) -> tuple[float, dict[str, Tensor]]:
        """Differentiate the weighted sum in one pass over the rows of all domains."""
        setting = self.setting
        names = (*setting.shared_names, LOG_VARIANCE)
        positions = list(batches)
        rows = _together(setting, batches)
        leaves = {name: values[name].detach().requires_grad_() for name in names}
        uncertainty = leaves[LOG_VARIANCE][positions]
        parameters = {name: value for name, value in {**values, **leaves}.items() if name != LOG_VARIANCE}
        with setting.structure.sparse_gradients():
            logits = setting.structure.under(parameters, rows.inputs, rows.domain)
            each = functional.binary_cross_entropy_with_logits(logits, rows.label, reduction="none")
            means = torch.stack([part.mean() for part in torch.split(each, [len(batches[i]) for i in positions])])
            weighted = (torch.exp(-uncertainty) * means + uncertainty / 2).sum()
            found = torch.autograd.grad(weighted, list(leaves.values()), allow_unused=True)
        gradients = {name: value for name, value in zip(leaves, found, strict=True) if value is not None}
        if TABLE in gradients:
            gradients[TABLE] = used_rows(setting.structure, gradients[TABLE].coalesce(), rows)
        return float(each.detach().mean()), gradients


class PCGrad(Joint):
    """Each domain's gradient loses what points against another's, then all are summed.

    g_i <- g_i - (g_i . g_j) / |g_j|^2 g_j wherever g_i . g_j < 0, for every j in a random order. Source: Yu et al.
    (NeurIPS 2020), algorithm 1. With `legacy_rules` the test is inverted, as in MAMDR's released code.
    """

    def gradients(
        self, values: dict[str, Tensor], batches: dict[int, LabelledBatch], stream: Stream
    ) -> tuple[float, dict[str, Tensor]]:
        """Differentiate each domain's loss, project, and sum."""
        setting = self.setting
        found = [
            loss_and_gradients(setting.structure, values, setting.shared_names, batch) for batch in batches.values()
        ]
        flat = Flattened.of([gradients for _, gradients in found], values)
        mix = projection(flat.rows @ flat.rows.T, stream.generator(), inverted=setting.config.legacy_rules)
        passed = sum(map(len, batches.values()))
        loss = sum(float(loss) * len(batch) for (loss, _), batch in zip(found, batches.values(), strict=True))
        return loss / passed, flat.named(mix.sum(0).to(flat.rows.dtype) @ flat.rows)


class Flattened:
    """Gradients of several domains as rows of one matrix; of the table the rows that any of them touches.

    Args:
        rows: (domains, width) one gradient each.
        shapes: of the dense parameters, by name.
        ids: (u,) rows of the table at the end of each gradient; None where the table does not learn.
        table: shape of the table.
    """

    def __init__(self, rows: Tensor, shapes: dict[str, torch.Size], ids: Tensor | None, table: torch.Size) -> None:
        self.rows = rows
        self._shapes = shapes
        self._ids = ids
        self._table = table

    @classmethod
    def of(cls, gradients: list[dict[str, Tensor]], values: dict[str, Tensor]) -> Flattened:
        """Flatten gradients by name; one that a domain does not have is zero."""
        names = dict.fromkeys(name for found in gradients for name in found if name != TABLE)
        shapes = {name: values[name].shape for name in names}
        tables = [found[TABLE] for found in gradients if TABLE in found]
        ids = torch.unique(torch.cat([table.indices()[0] for table in tables])) if tables else None
        table = values[TABLE].shape
        rows = []
        for found in gradients:
            parts = [found[name].flatten() if name in found else torch.zeros(shapes[name].numel()) for name in names]
            if ids is not None:
                spread = torch.zeros(len(ids), table[1])
                if TABLE in found:
                    spread[torch.searchsorted(ids, found[TABLE].indices()[0])] = found[TABLE].values()
                parts.append(spread.flatten())
            rows.append(torch.cat(parts))
        return cls(torch.stack(rows), shapes, ids, table)

    def named(self, row: Tensor) -> dict[str, Tensor]:
        """Return one flat gradient (width,) by name."""
        sizes = [shape.numel() for shape in self._shapes.values()]
        parts = torch.split(row, [*sizes, len(row) - sum(sizes)])
        named = {n: part.view(shape) for (n, shape), part in zip(self._shapes.items(), parts, strict=False)}
        if self._ids is not None:
            values = parts[-1].view(len(self._ids), self._table[1])
            named[TABLE] = torch.sparse_coo_tensor(
                self._ids.unsqueeze(0), values, self._table, is_coalesced=True, check_invariants=False
            )
        return named


def projection(products: Tensor, generator: torch.Generator, inverted: bool = False) -> Tensor:
    """Return how PCGrad mixes gradients: row i has the weights (n,) of all g_j in the projected g_i.

    Working on weights needs the gradients' inner products alone: g_i' . g_j = sum over l of w_il (g_l . g_j).

    Args:
        products: (n, n) inner products of the gradients.
        generator: of the order in which each meets the others.
        inverted: project where gradients agree, not where they conflict.

    Returns:
        Weights (n, n) float64.
    """
    n = len(products)
    products = products.double()
    weights = torch.eye(n, dtype=torch.float64)
    for i in range(n):
        for j in torch.randperm(n, generator=generator).tolist():
            if i == j or products[j, j] <= 0:
                continue
            along = weights[i] @ products[:, j]
            if (along > 0) if inverted else (along < 0):
                weights[i, j] -= along / products[j, j]
    return weights


def _together(setting: Setting, batches: dict[int, LabelledBatch]) -> LabelledBatch:
    """The rows of all domains as one batch, in the order of the domains."""
    parts = list(batches.values())
    inputs = type(parts[0].inputs)(
        torch.cat([part.inputs.sparse for part in parts]),
        torch.cat([part.inputs.dense for part in parts]),
        {name: torch.cat([part.inputs.multi_hot[name] for part in parts]) for name in parts[0].inputs.multi_hot},
    )
    return LabelledBatch(inputs, torch.cat([part.domain for part in parts]), torch.cat([part.label for part in parts]))
