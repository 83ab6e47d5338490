"""A new domain by Domain Regularization alone, on a theta_S that stays as it is (methods.md 3)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from training.checkpoint import Memory
from training.errors import ConfigError
from training.frameworks.fit import Fit, Fitted
from training.frameworks.regularization import Regularizer
from training.frameworks.scoring import domain_aucs
from training.frameworks.setting import Setting
from training.frameworks.state import State
from training.progress import Meter


class Newcomer:
    """Trains one theta_i and nothing else.

    Args:
        setting: the new domain has its training rows in it.
        domain: its position.
        learned: theta_S; never changed.
    """

    def __init__(self, setting: Setting, domain: int, learned: State) -> None:
        self._regularizer = Regularizer(setting)
        self._setting = setting
        self._domain = domain
        self._learned = learned

    def start(self) -> State:
        """Return theta_S with a fresh theta_i."""
        state = self._setting.start()
        state.shared, state.moments = self._learned.shared, self._learned.moments
        self._regularizer.begin(state, self._domain)
        return state

    def epoch(self, state: State, number: int) -> float:
        """Let the domain meet k others once; there is no loss to show."""
        self._regularizer.targets(state, number, [self._domain])
        return float("nan")


def fit_newcomer(setting: Setting, domain: int, learned: State, memory: Memory, meter: Meter) -> Fitted:
    """Train a new domain's theta_i; the best epoch by its own validation AUC is kept, the start among them.

    Args:
        setting: network, rows, configuration; the new domain has its training rows in it.
        domain: its position.
        learned: theta_S, trained with or without the domain.
        memory: of the checkpoint.
        meter: where progress goes.

    Raises:
        ConfigError: the domain has no training rows.
        StateMismatch: the checkpoint is of other settings.
    """
    name = setting.domains.names[domain]
    if len(setting.domains.train[domain]) == 0:
        raise ConfigError(
            f"domain {name} has no training rows: there is nothing to learn from. Build the data with some, "
            "or let the domain be served by theta_S"
        )
    rows: list[Tensor] = [part if i == domain else part[:0] for i, part in enumerate(setting.domains.stop)]
    config = setting.config
    with meter.watch(memory.name, config.epochs * _rows_of_epoch(setting, domain)) as advance:
        own = replace(setting, stream=setting.stream.of("newcomer"), advance=advance)
        return Fit(
            Newcomer(own, domain, learned),
            lambda state: domain_aucs(setting, state, rows),
            config.epochs,
            config.patience,
            memory,
            meter,
            start_counts=True,
        ).run()


def _rows_of_epoch(setting: Setting, domain: int) -> int:
    """About how many rows an epoch passes: of each round the domain's own, and as many as another has on average."""
    sizes = [len(setting.domains.train[one]) for one in setting.domains.trained]
    config = setting.config.regularization
    rounds = min(config.others, len(sizes) - 1) + int(config.include_target)
    return rounds * (len(setting.domains.train[domain]) + sum(sizes) // len(sizes))
