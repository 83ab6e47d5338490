"""Domain Regularization alone, and MAMDR (methods.md 3)."""

from __future__ import annotations

from training.frameworks.alternate import Alternate
from training.frameworks.framework import Framework
from training.frameworks.negotiation import Negotiation
from training.frameworks.regularization import Regularizer
from training.frameworks.setting import Setting
from training.frameworks.state import State


class WithSpecifics:
    """An epoch of a framework for theta_S, then Domain Regularization of every theta_i.

    Over Domain Negotiation it is MAMDR (algorithm 3), over alternate training it is MAMDR without Domain Negotiation.

    Args:
        setting: what it works on.
        shared: trains theta_S.
    """

    def __init__(self, setting: Setting, shared: Framework) -> None:
        self._setting = setting
        self._shared = shared
        self._regularizer = Regularizer(setting)

    def start(self) -> State:
        """Return the state before the first epoch, every theta_i in place."""
        state = self._shared.start()
        for domain in self._setting.domains.trained:
            self._regularizer.begin(state, domain)
        return state

    def epoch(self, state: State, number: int) -> float:
        """Train theta_S, then every theta_i."""
        loss = self._shared.epoch(state, number)
        self._regularizer.targets(state, number, self._setting.domains.trained)
        return loss


def mamdr(setting: Setting) -> WithSpecifics:
    """Domain Negotiation and Domain Regularization."""
    return WithSpecifics(setting, Negotiation(setting))


def regularized_alternate(setting: Setting) -> WithSpecifics:
    """Alternate training and Domain Regularization."""
    return WithSpecifics(setting, Alternate(setting))
