"""Domain Negotiation, and Reptile, from which it differs in when the outer step is taken."""

from __future__ import annotations

from training.frameworks.alternate import visit_all
from training.frameworks.inner import Weights
from training.frameworks.setting import OUTER, Setting, pseudo_step
from training.frameworks.state import State


class Negotiation:
    """Domain Negotiation: carry weights through all domains, then step from theta_S towards where they end.

    theta_S += beta * (end - theta_S); beta = 1 is alternate training. Source: MAMDR, algorithm 1 and Eq. 3.

    Args:
        setting: what it works on.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def start(self) -> State:
        """Return the state before the first epoch."""
        return self._setting.start()

    def epoch(self, state: State, number: int) -> float:
        """Visit every domain once, then take one outer step."""
        end, loss = visit_all(self._setting, state, number)
        pseudo_step(state.shared, end, self._setting.shared_names, state.optimizers[OUTER])
        self._setting.measure(state)
        return loss


class Reptile:
    """One outer step after each domain. Source: Nichol et al. (2018), algorithm 1.

    Args:
        setting: what it works on.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def start(self) -> State:
        """Return the state before the first epoch."""
        return self._setting.start()

    def epoch(self, state: State, number: int) -> float:
        """Visit every domain once, each time from theta_S."""
        setting, names = self._setting, self._setting.shared_names
        stream = setting.stream.of("visits", number)
        setting.structure.load_moments(state.moments)
        loss, rows = 0.0, 0
        for domain in setting.shuffled(setting.domains.trained, stream.of("domains")):
            named = stream.of(setting.domains.names[domain])
            visits = setting.visit(domain, named)
            end = Weights.starting(state.shared)
            loss += setting.steps(end, names, visits, setting.inner_optimizer(state), named)
            pseudo_step(state.shared, end, names, state.optimizers[OUTER])
            rows += sum(map(len, visits))
        setting.measure(state)
        return loss / max(rows, 1)
