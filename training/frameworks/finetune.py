"""What each domain learns alone at the very end, from theta_S + theta_i; it changes that domain's theta_i only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from training.checkpoint import Memory, Record
from training.early_stopping import EarlyStopping
from training.frameworks.inner import Weights
from training.frameworks.optimizers import Optimizer
from training.frameworks.regularization import Regularizer, move_towards
from training.frameworks.scoring import domain_aucs
from training.frameworks.setting import Setting
from training.frameworks.state import State
from training.progress import Meter
from training.seeds import Stream


@dataclass(frozen=True)
class Finetuned:
    """What finetuning gave.

    Args:
        state: theta_S as it was, theta_i of every domain as finetuned.
        records: for each domain {domain, epoch (0: it stayed as it was), aucs of its epochs, from 0}.
    """

    state: State
    records: tuple[Record, ...]


def finetune(setting: Setting, state: State, memory_of: Callable[[str], Memory], meter: Meter) -> Finetuned:
    """Finetune every domain that has training rows, each from its own checkpoint.

    Args:
        setting: network, rows, configuration.
        state: the selected one; never changed.
        memory_of: the checkpoint of a domain, by name.
        meter: where progress goes.

    Raises:
        StateMismatch: a checkpoint is of other settings.
    """
    tuned = State(state.shared, state.moments, dict(state.specifics))
    records = []
    with meter.watch("finetune", setting.config.finetune.epochs * sum(map(len, setting.domains.train))) as advance:
        watched = replace(setting, advance=advance)
        for domain in setting.domains.trained:
            own, record = _remembered(watched, state, domain, memory_of(setting.domains.names[domain]))
            if domain in own.specifics:
                tuned.specifics[domain] = own.specifics[domain]
            shown = ", ".join("none" if auc is None else f"{auc:.5f}" for auc in record["aucs"])
            meter.say(f"finetune {record['domain']}: validation AUC {shown}; epoch {record['epoch']} is kept")
            records.append(record)
    return Finetuned(tuned, tuple(records))


def _remembered(setting: Setting, state: State, domain: int, memory: Memory) -> tuple[State, Record]:
    """What finetuning one domain gave, from its checkpoint if there is one; as `_one`."""
    saved = memory.load()
    if saved is None:
        own, record = _one(setting, state, domain)
        memory.save(own.tensors(), record)
        return own, record
    own = State({})
    own.load(saved.tensors)
    return own, {key: value for key, value in saved.record.items() if key != "identity"}


def _one(setting: Setting, state: State, domain: int) -> tuple[State, Record]:
    """Finetune one domain; the best epoch is kept, the start among them.

    Returns:
        A state with nothing but its theta_i, empty where the start was best; and the record.
    """
    config = setting.config.finetune
    stopping = EarlyStopping(config.patience)
    rows = [part if place == domain else part[:0] for place, part in enumerate(setting.domains.stop)]
    now = State(state.shared, state.moments)
    if domain in state.specifics:
        now.specifics[domain] = state.specifics[domain].copied()
    aucs = [domain_aucs(setting, now, rows)[domain]]
    stopping.observe(0, aucs[0])
    if domain not in now.specifics:
        Regularizer(setting).begin(now, domain, zeros=True)
    best, optimizer = State({}), Optimizer(config.rule)
    while len(aucs) <= config.epochs and aucs[0] is not None and not stopping.exhausted(len(aucs) - 1):
        stream = setting.stream.of("finetune", setting.domains.names[domain], len(aucs))
        _epoch(setting, now, domain, optimizer, stream)
        aucs.append(domain_aucs(setting, now, rows)[domain])
        if stopping.observe(len(aucs) - 1, aucs[-1]):
            best = State({}, {}, {domain: now.specifics[domain].copied()})
    return best, {"domain": setting.domains.names[domain], "epoch": stopping.best_epoch or 0, "aucs": aucs}


def _epoch(setting: Setting, state: State, domain: int, optimizer: Optimizer, stream: Stream) -> None:
    """Pass over the domain's rows once, changing its theta_i."""
    names = setting.specific_names
    start = state.weights_of(domain)
    weights = Weights.starting(start)
    setting.structure.load_moments(state.moments_of(domain))
    setting.steps(weights, names, setting.one_pass(domain, stream), optimizer, stream)
    move_towards(state.specifics[domain], state.shared, start, weights, names, 1.0)
    setting.measure_specific(state, domain)
