"""The training loop of a pack: every domain takes the steps that it takes alone, all of them in one batched product."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Generic

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from training.packed.adam import StackedAdam
from training.packed.aucs import domain_aucs
from training.packed.average import StackedAverage
from training.packed.course import Course, Terms
from training.packed.masks import Masks
from training.packed.network import PackNetwork, PackRows, Read
from training.packed.norm import Filled
from training.packed.rows import READ_ROWS, generators
from training.packed.stack import Stack
from training.progress import Advance, Meter


class PackLoop(Generic[Read]):
    """Trains the domains of one pack.

    A domain that is over leaves the stack, so that the others' steps do not carry it along.

    Args:
        network: what the rows of the stack are parameters of.
        start: of the t domains; changed.
        courses: of the t domains, those with most batches an epoch first.
        train: the domains' training rows.
        stop: the domains' validation rows.
        terms: how long, how fast, and which epoch is kept.
        name: of the pack, where progress is shown.
        meter: where progress goes.
        clock: seconds, for the speed shown.
    """

    def __init__(
        self,
        network: PackNetwork[Read],
        start: Stack,
        courses: Sequence[Course],
        train: PackRows[Read],
        stop: PackRows[Read],
        terms: Terms,
        name: str,
        meter: Meter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._network = network
        self._courses = courses
        self._train = train
        self._stop = stop
        self._terms = terms
        self._name = name
        self._meter = meter
        self._clock = clock
        self._alive = list(range(len(courses)))
        self._stack = start
        self._kept = start.take(torch.arange(len(start)))
        self._adam = StackedAdam(start.learned, terms.schedule)
        self._average = StackedAverage(start) if terms.averages else None

    def run(self) -> Stack:
        """Train every domain to its end and return the selected weights, in the order of the courses."""
        if self._terms.start_counts:
            self._judge(None, 0.0)
        self._retire()
        rows = self._terms.schedule.epochs * sum(len(self._courses[i].rows) for i in self._alive)
        with self._meter.watch(self._name, rows) as advance:
            while self._alive:
                self._pass(advance)
                self._retire()
        return self._kept

    def _pass(self, advance: Advance) -> None:
        """Train one epoch of the domains that are left, and judge it."""
        began = self._clock()
        courses = [self._courses[i] for i in self._alive]
        epoch = courses[0].epoch + 1
        queues = [course.batches(epoch, self._terms) for course in courses]
        masks = self._masks(courses, epoch)
        totals = torch.zeros(len(courses), dtype=torch.float64)
        for step in range(len(queues[0])):
            busy = [queue[step] for queue in queues if step < len(queue)]  # the first ones: they have most batches
            counts = [len(batch) for batch in busy]
            totals[: len(busy)] += self._step(busy, counts, masks) * torch.tensor(counts)
            advance(sum(counts))
        for course in courses:
            course.epoch = epoch
        losses = [total / len(course.rows) for total, course in zip(totals.tolist(), courses, strict=True)]
        self._judge(losses, self._clock() - began)

    def _masks(self, courses: Sequence[Course], epoch: int) -> Masks | None:
        dropout = self._terms.schedule.dropout
        if not dropout:
            return None
        return Masks(generators([course.stream for course in courses], "dropout", epoch), self._network.hidden, dropout)

    def _step(self, batches: Sequence[Tensor], counts: list[int], masks: Masks | None) -> Tensor:
        """Let the first domains take one step, each on its own batch, and return their losses."""
        stack = self._stack.leading(len(batches))
        at = pad_sequence(list(batches), batch_first=True).flatten()
        label = self._train.label.index_select(0, at)
        filled = Filled.of(counts, label.dtype)
        learned = stack.learned.detach().requires_grad_()
        drops = () if masks is None else masks.draw(counts, label.dtype)
        logits = self._network.logits(Stack(learned, stack.moments), self._train.take(at), filled, drops)
        each = functional.binary_cross_entropy_with_logits(
            logits, label, weight=filled.weight.flatten(), reduction="none"
        )
        losses = each.view(len(batches), -1).sum(1)
        (gradient,) = torch.autograd.grad(losses.sum(), learned)  # each domain's loss reads its own row only
        self._adam.step(stack.learned, gradient)
        if self._average is not None:
            self._average.follow(stack)
        return losses.detach()

    def _judge(self, losses: Sequence[float] | None, seconds: float) -> None:
        """Score the validation rows of the domains that are left, and keep what is best so far."""
        courses = [self._courses[i] for i in self._alive]
        aucs = self._aucs(courses, self._stack)
        rows = max(1, sum(len(course.rows) for course in courses))
        better = []
        for place, (course, auc) in enumerate(zip(courses, aucs, strict=True)):
            loss = None if losses is None else losses[place]
            if course.judge(loss, auc, seconds * len(course.rows) / rows):
                better.append(place)
        self._keep(better, self._stack)
        if self._average is not None and losses is not None:
            self._judge_averages(courses, self._average.mean)
        if losses is not None:
            speed = f"{rows / max(seconds, 1e-9):,.0f} rows/s"
            self._meter.say(f"{self._name} epoch {courses[0].epoch}: {len(courses)} domains in training, {speed}")

    def _judge_averages(self, courses: Sequence[Course], mean: Stack) -> None:
        """Score the validation rows by the averages, and keep those that are the best so far."""
        aucs = enumerate(zip(courses, self._aucs(courses, mean), strict=True))
        self._keep([place for place, (course, auc) in aucs if course.judge_average(auc)], mean)

    def _aucs(self, courses: Sequence[Course], stack: Stack) -> list[float | None]:
        parts = [course.stop for course in courses]
        logits = scored(self._network, stack, self._stop, parts)
        label = self._stop.label[torch.cat(parts)].numpy()
        owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        return domain_aucs(label, logits.numpy(), owner, len(parts))

    def _keep(self, places: Sequence[int], stack: Stack) -> None:
        """Remember the weights that stand at some places of a stack of the domains that are left."""
        if places:
            chosen = torch.tensor(places)
            self._kept.put(torch.tensor([self._alive[place] for place in places]), stack.take(chosen))

    def _retire(self) -> None:
        """Take the domains that are over out of the stack."""
        over = [self._courses[i].over(self._terms) for i in self._alive]
        if not any(over):
            return
        last = [p for p, done in enumerate(over) if done and not self._courses[self._alive[p]].keeps_best(self._terms)]
        self._keep(last, self._stack)
        left = torch.tensor([place for place, done in enumerate(over) if not done], dtype=torch.int64)
        self._stack = self._stack.take(left)
        self._adam.take(left)
        if self._average is not None:
            self._average.take(left)
        self._alive = [self._alive[place] for place in left.tolist()]


@torch.no_grad()
def scored(network: PackNetwork[Read], stack: Stack, rows: PackRows[Read], parts: Sequence[Tensor]) -> Tensor:
    """Score rows of every domain of a stack, a bounded number at a time.

    Args:
        network: in what form.
        stack: of t domains.
        rows: where the rows are.
        parts: for each domain positions of its rows.

    Returns:
        Their logits in float64, one domain after another.
    """
    at = pad_sequence(list(parts), batch_first=True)
    if not at.numel():
        return torch.empty(0, dtype=torch.float64)
    found = [
        network.logits(stack, rows.take(columns.flatten())).view(columns.shape)
        for columns in torch.split(at, max(1, READ_ROWS // len(parts)), dim=1)
    ]
    real = torch.arange(at.shape[1]) < torch.tensor([len(part) for part in parts])[:, None]
    return torch.cat(found, dim=1)[real].double()
