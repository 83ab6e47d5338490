"""What every framework works on: the network, the rows, the configuration; and what they all do with them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.batches import RowTensors, split_batches
from training.frameworks.config import MamdrConfig
from training.frameworks.domains import DomainRows
from training.frameworks.inner import LabelledBatch, Weights, inner_steps
from training.frameworks.moments import remeasure
from training.frameworks.optimizers import Optimizer
from training.frameworks.state import Specific, State
from training.frameworks.structure import TABLE, Structure
from training.seeds import Stream

Advance = Callable[[int], None]
INNER, OUTER = "inner", "outer"


@dataclass(frozen=True)
class Setting:
    """The collaborators of a framework.

    Args:
        structure: the network; its own parameters are the start of theta_S and are never changed.
        rows: the data set.
        domains: its rows by natural domain and by what they serve.
        config: the keys of the method.
        stream: of all random numbers of the training.
        advance: told the rows of each batch.
    """

    structure: Structure
    rows: RowTensors
    domains: DomainRows
    config: MamdrConfig
    stream: Stream
    advance: Advance = lambda rows: None

    @property
    def shared_names(self) -> tuple[str, ...]:
        """Names of what theta_S trains."""
        return self._learning(self.structure.shared_names(), self.config.embeddings != "frozen")

    @property
    def specific_names(self) -> tuple[str, ...]:
        """Names of what a theta_i trains."""
        return self._learning(self.structure.specific_names(), self.config.embeddings in ("deltas", "copies"))

    def start(self) -> State:
        """Return theta_S as the network starts, and the optimizers that outlive an epoch."""
        state = State(self.structure.theta(), self.structure.moments())
        state.optimizers[OUTER] = Optimizer(self.config.outer.rule)
        if self.config.inner.reset == "never":
            state.optimizers[INNER] = Optimizer(self.config.inner.rule)
        return state

    def inner_optimizer(self, state: State) -> Optimizer:
        """Return what an inner loop starts with: a fresh optimizer, or the one that is never reset."""
        kept = state.optimizers.get(INNER)
        return Optimizer(self.config.inner.rule) if kept is None else kept

    def labelled(self, positions: Tensor) -> LabelledBatch:
        """Return the rows at these positions (n,)."""
        inputs = self.rows.batch(positions)
        return LabelledBatch(inputs, self.rows.domains[positions, 0], self.rows.label[positions])

    def visit(self, domain: int, stream: Stream) -> list[Tensor]:
        """Return the positions of each batch of one visit to a domain, as `inner.steps` says."""
        wanted = self.config.inner.steps
        if wanted == "epoch":
            return list(self.one_pass(domain, stream.of("pass", 0)))
        passes = (self.one_pass(domain, stream.of("pass", number)) for number in itertools.count())
        return list(itertools.islice(itertools.chain.from_iterable(passes), wanted))

    def batches(self, visits: Sequence[Tensor]) -> Iterator[LabelledBatch]:
        """Read batches, and tell of each when it was learned from."""
        for positions in visits:
            yield self.labelled(positions)
            self.advance(len(positions))

    def steps(
        self, weights: Weights, names: Sequence[str], visits: Sequence[Tensor], optimizer: Optimizer, stream: Stream
    ) -> float:
        """Take inner steps on batches, dropout drawn from the stream; return the loss summed over rows."""
        with stream.of("dropout").ambient():
            return inner_steps(self.structure, weights, names, self.batches(visits), optimizer)

    def shuffled(self, domains: Sequence[int], stream: Stream) -> list[int]:
        """Return the domains in a random order."""
        order = torch.randperm(len(domains), generator=stream.generator()).tolist()
        return [domains[place] for place in order]

    def mixed(self, stream: Stream) -> Sequence[Tensor]:
        """Return the positions of each batch of one pass over all rows, in a random order.

        A batch is drawn from the rows of all domains, or from those of one where the network says so
        (`Structure.one_domain_batches`).
        """
        if not self.structure.one_domain_batches:
            return split_batches(torch.cat(self.domains.train), self.config.batch_rows, 1, stream.generator())
        batches = [
            batch for domain in self.domains.trained for batch in self.one_pass(domain, stream.of(self._name(domain)))
        ]
        order = torch.randperm(len(batches), generator=stream.of("batches").generator())
        return [batches[place] for place in order.tolist()]

    def measure(self, state: State) -> None:
        """Measure the norms' moments of theta_S anew, over all training rows (methods.md 3)."""
        if not state.moments:
            return
        batches = self.mixed(self.stream.of("moments"))
        state.moments = remeasure(self.structure, state.shared, state.moments, map(self.labelled, batches))

    def measure_specific(self, state: State, domain: int) -> None:
        """Measure the norms' moments of theta_S + theta_i anew, over the domain's training rows."""
        if not state.moments:
            return
        stream = self.stream.of("moments", self._name(domain))
        batches = split_batches(self.domains.train[domain], self.config.batch_rows, 1, stream.generator())
        own: Specific = state.specifics[domain]
        own.moments = remeasure(self.structure, state.weights_of(domain), state.moments, map(self.labelled, batches))

    def one_pass(self, domain: int, stream: Stream) -> tuple[Tensor, ...]:
        """Return the positions of each batch of one pass over a domain's rows."""
        config, rows = self.config, self.domains.train[domain]
        return split_batches(rows, config.batch_rows, config.min_batches, stream.generator())

    def _name(self, domain: int) -> str:
        return self.domains.names[domain]

    def _learning(self, dense: Sequence[str], table: bool) -> tuple[str, ...]:
        trainable = {name for name, parameter in self.structure.named_parameters() if parameter.requires_grad}
        names = (*dense, TABLE) if table else tuple(dense)
        return tuple(name for name in names if name in trainable)


def pseudo_step(theta: dict[str, Tensor], end: Weights, names: Sequence[str], optimizer: Optimizer) -> None:
    """Give the pseudo-gradient theta - end to an outer optimizer, of the table only for touched rows.

    Source: MAMDR, Eq. 3, with any optimizer in the place of the step beta.

    Args:
        theta: where the inner loop started; changed in place.
        end: where it ended.
        names: of what the loop trained.
        optimizer: of the outer step; sgd with step size beta is the paper's.
    """
    optimizer.begin()
    optimizer.dense(theta, {name: theta[name] - end.values[name] for name in names if name != TABLE})
    if TABLE in names:
        ids = end.touched.nonzero().squeeze(1)
        optimizer.rows(TABLE, theta[TABLE], ids, theta[TABLE][ids] - end.values[TABLE][ids])
