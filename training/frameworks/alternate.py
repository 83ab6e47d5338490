"""Frameworks that train theta_S with one optimizer, batch by batch: mixed, or one domain after another."""

from __future__ import annotations

from training.frameworks.inner import Weights
from training.frameworks.setting import Setting
from training.frameworks.state import State


class Mix:
    """Every batch is drawn from the rows of all domains, or of any one, as the network has it.

    Args:
        setting: what it works on.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def start(self) -> State:
        """Return the state before the first epoch."""
        return self._setting.start()

    def epoch(self, state: State, number: int) -> float:
        """Pass over all rows once."""
        setting = self._setting
        stream = setting.stream.of("mix", number)
        visits = setting.mixed(stream.of("order"))
        weights = Weights.starting(state.shared)
        setting.structure.load_moments(state.moments)
        optimizer = setting.inner_optimizer(state)
        loss = setting.steps(weights, setting.shared_names, visits, optimizer, stream)
        state.shared = weights.values
        setting.measure(state)
        return loss / sum(map(len, visits))


class Alternate:
    """One domain after another, in a new random order each epoch.

    Args:
        setting: what it works on.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def start(self) -> State:
        """Return the state before the first epoch."""
        return self._setting.start()

    def epoch(self, state: State, number: int) -> float:
        """Visit every domain once."""
        end, loss = visit_all(self._setting, state, number)
        state.shared = end.values
        self._setting.measure(state)
        return loss


def order_of(setting: Setting, number: int) -> list[int]:
    """Return the positions of the domains in the order in which an epoch of this number visits them."""
    return setting.shuffled(setting.domains.trained, setting.stream.of("visits", number).of("domains"))


def visit_all(setting: Setting, state: State, number: int) -> tuple[Weights, float]:
    """Carry theta_S through every domain in a random order: one epoch of alternate training.

    It is also the inner loop of Domain Negotiation (MAMDR, algorithm 1).

    Args:
        setting: what it works on.
        state: where it starts; left as it is, but for an inner optimizer that is never reset.
        number: of the epoch.

    Returns:
        Where it ends, and the mean loss over the rows passed.
    """
    stream = setting.stream.of("visits", number)
    weights = Weights.starting(state.shared)
    setting.structure.load_moments(state.moments)
    optimizer = setting.inner_optimizer(state)
    loss, rows = 0.0, 0
    for domain in order_of(setting, number):
        named = stream.of(setting.domains.names[domain])
        visits = setting.visit(domain, named)
        loss += setting.steps(weights, setting.shared_names, visits, optimizer, named)
        rows += sum(map(len, visits))
    return weights, loss / max(rows, 1)
