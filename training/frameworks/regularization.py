"""Domain Regularization: each theta_i learns from other domains what helps its own (MAMDR, algorithm 2)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from training.frameworks.inner import Weights
from training.frameworks.packed import packable, packed_round
from training.frameworks.setting import Setting
from training.frameworks.state import Specific, State
from training.frameworks.structure import TABLE
from training.seeds import Stream


class Regularizer:
    """Trains theta_i on a frozen theta_S: for each of k other domains j, steps on j, then on i, then

        theta_i += gamma * (end - theta_i)

    with theta_S + theta_i in every forward pass. Source: MAMDR, Eq. 5 to 8. The steps change the sum, from which the
    change of theta_i follows, so that they are the same inner loop as everywhere.

    Args:
        setting: what it works on.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def begin(self, state: State, domain: int, zeros: bool = False) -> None:
        """Give a domain its theta_i: zeros, or an independent draw of the network's start.

        Args:
            state: theta_S; gains the domain.
            domain: which.
            zeros: begin at zero whatever the configuration says.
        """
        setting = self._setting
        stream = setting.stream.of("specific", setting.domains.names[domain])
        dense = {name: state.shared[name] for name in setting.structure.specific_names()}
        own = Specific.zeros(dense, state.shared[TABLE].shape[1])
        own.dense |= setting.structure.specific_start(stream.generator())
        if setting.config.embeddings == "copies" and TABLE in setting.specific_names:
            own.ids = torch.arange(len(state.shared[TABLE]))
            own.rows = torch.zeros_like(state.shared[TABLE])
        if setting.config.regularization.start == "random" and not zeros:
            self._draw(own, state, stream.generator())
        state.specifics[domain] = own

    def targets(self, state: State, number: int, targets: Sequence[int]) -> None:
        """Train every theta_i of these domains by one epoch of k rounds, side by side where that is possible."""
        setting = self._setting
        for domain in targets:
            if domain not in state.specifics:
                self.begin(state, domain)
        group = setting.config.regularization.packed
        if group > 1 and packable(setting):
            for part in _by_cost(setting, targets, group):
                self._side_by_side(state, number, part)
        else:
            scratch = state.shared[TABLE].clone() if TABLE in setting.specific_names else state.shared[TABLE]
            for domain in targets:
                for place, other in enumerate(self.others(domain, number)):
                    self._round(state, number, domain, place, other, scratch)
        for domain in targets:
            setting.measure_specific(state, domain)

    def others(self, domain: int, number: int) -> list[int]:
        """Return the domains that a target meets in an epoch, in order."""
        config, trained = self._setting.config.regularization, self._setting.domains.trained
        own = bisect_left(trained, domain)
        known = int(own < len(trained) and trained[own] == domain)  # one without training rows is no candidate anyway
        generator = self._stream(number, domain).of("others").generator()
        drawn = torch.randperm(len(trained) - known, generator=generator)[: config.others].tolist()
        chosen = [trained[place + (known and place >= own)] for place in drawn]
        return [*chosen, domain] if config.include_target else chosen

    def visits(self, number: int, domain: int, place: int, other: int) -> list[Tensor]:
        """Return the batches of one round: those of the other domain, then the target's. The order is fixed."""
        stream = self._stream(number, domain).of(place)
        return self._setting.visit(other, stream.of("other")) + self._setting.visit(domain, stream.of("target"))

    def _round(self, state: State, number: int, domain: int, place: int, other: int, scratch: Tensor) -> None:
        setting, own = self._setting, state.specifics[domain]
        names = setting.specific_names
        start = {name: state.shared[name] + value for name, value in own.dense.items()}
        values = {**state.shared, **{name: value.clone() for name, value in start.items()}, TABLE: scratch}
        scratch.index_add_(0, own.ids, own.rows)
        weights = Weights(values, torch.zeros(len(scratch), dtype=torch.bool))
        setting.structure.load_moments(state.moments_of(domain))
        stream = self._stream(number, domain).of(place)
        visits = self.visits(number, domain, place, other)
        setting.steps(weights, names, visits, setting.inner_optimizer(state), stream)
        move_towards(own, state.shared, start, weights, names, setting.config.regularization.gamma)
        if TABLE in names:
            scratch[own.ids] = state.shared[TABLE][own.ids]  # theta_S again, for whoever comes next

    def _side_by_side(self, state: State, number: int, targets: Sequence[int]) -> None:
        met = {domain: self.others(domain, number) for domain in targets}
        for place in range(max(map(len, met.values()))):
            taking = [domain for domain in targets if place < len(met[domain])]
            visits = [self.visits(number, domain, place, met[domain][place]) for domain in taking]
            stream = self._setting.stream.of("packed", number, *taking, place)
            packed_round(self._setting, state, taking, visits, stream)

    def _stream(self, number: int, domain: int) -> Stream:
        return self._setting.stream.of("dr", number, self._setting.domains.names[domain])

    def _draw(self, own: Specific, state: State, generator: torch.Generator) -> None:
        """Draw theta_i anew, with the spread that each tensor of theta_S has.

        departs from the released code, which calls the initializer again: a tensor's own spread serves every network.
        """
        structure = self._setting.structure
        starts = {name: parameter.detach() for name, parameter in structure.named_parameters()}
        for name, value in own.dense.items():
            value.normal_(0.0, _spread(starts[name]), generator=generator)
        if len(own.ids):
            own.rows.normal_(0.0, structure.embeddings.shape.embedding_std, generator=generator)


def move_towards(
    own: Specific,
    shared: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    end: Weights,
    names: Sequence[str],
    gamma: float,
) -> None:
    """Move theta_i: theta_i += gamma * (end - start), of the table for the rows that were touched.

    Args:
        own: theta_i, changed in place.
        shared: theta_S.
        start: theta_S + theta_i where the inner loop began, by dense name.
        end: where it ended; its rows are marked.
        names: of what the loop trained.
        gamma: the step.
    """
    for name in names:
        if name != TABLE:
            own.dense[name].add_(end.values[name] - start[name], alpha=gamma)
    if TABLE not in names:
        return
    end.touched[own.ids] = True
    ids = end.touched.nonzero().squeeze(1)
    before = torch.zeros(len(ids), shared[TABLE].shape[1])
    before[torch.searchsorted(ids, own.ids)] = own.rows
    own.ids, own.rows = ids, before + gamma * (end.values[TABLE][ids] - (shared[TABLE][ids] + before))


def _spread(start: Tensor) -> float:
    return float(start.std()) if start.numel() > 1 else 0.0


def _by_cost(setting: Setting, targets: Sequence[int], group: int) -> Iterator[Sequence[int]]:
    """Cut the targets into groups of alike numbers of rows, so that few wait for others."""
    sizes = setting.domains.train
    ordered = sorted(targets, key=lambda domain: -len(sizes[domain]))
    return (ordered[i : i + group] for i in range(0, len(ordered), group))
