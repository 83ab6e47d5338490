"""What can be searched: the stages of MultiLoRA, the baselines beside them, and every framework."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from training.baselines.table import BASELINES
from training.config import Schedule, TrainingConfig
from training.errors import ConfigError
from training.frameworks.config import MamdrConfig
from training.frameworks.table import FRAMEWORKS
from training.fusion import TRAINED_MODES
from training.search import judging, spaces
from training.search.judging import Judge
from training.search.space import Space, placed
from training.trials.trial import Config


@dataclass(frozen=True)
class Method:
    """Something whose settings are searched.

    Args:
        name: of a stage, a baseline, a framework or a multi-domain network.
        sections: top-level keys that its space may hold; empty for all but those that no method may change.
        space: the usual one.
        ground: stages that its trials stand on, trained once for all of them.
        judge: trains a configuration and says what it is worth.
        passes: of (configuration, divisions), how often a trial passes the training rows, at most.
        carried: whether what is found is where the methods after it begin.
    """

    name: str
    sections: Collection[str]
    space: Space
    ground: Sequence[str]
    judge: Judge
    passes: Callable[[Any, int], int]
    carried: bool = False

    def check(self, space: Space) -> None:
        """Refuse a space that holds what is not this method's to choose.

        Raises:
            ConfigError: a key of another stage, or none at all.
        """
        if not space:
            raise ConfigError(f"the space of {self.name} is empty: name at least one key")
        for key in space:
            section = key.split(".", 1)[0]
            allowed = section in self.sections if self.sections else section not in _NO_METHODS_OWN
            if not allowed:
                here = f"it may change {', '.join(self.sections)}" if self.sections else "it decides no method"
                raise ConfigError(f"the space of {self.name} holds {key}: {here}")


_NO_METHODS_OWN = ("data", "rows", "seed", "threads", "sinks", "bootstrap_draws", "framework", "preset", "structure")


def _of_schedule(section: str) -> Callable[[TrainingConfig, int], int]:
    def passes(config: TrainingConfig, divisions: int) -> int:
        schedule: Schedule = getattr(config, section)
        return schedule.epochs

    return passes


def _of_adapters(config: TrainingConfig, divisions: int) -> int:
    return config.adapters.epochs * divisions


def _of_fusion(config: TrainingConfig, divisions: int) -> int:
    return config.fuse.epochs * len(TRAINED_MODES)


def _of_framework(config: MamdrConfig, divisions: int) -> int:
    rounds = config.regularization.others + int(config.regularization.include_target)
    each = 1 + 2 * rounds if config.framework in ("dr", "mamdr") else 1
    return config.epochs * each + config.finetune.epochs


_STAGES = (
    Method(
        "pretrain",
        ("backbone", "pretrain"),
        spaces.OF_STAGES["pretrain"],
        (),
        judging.pretrain,
        _of_schedule("pretrain"),
        carried=True,
    ),
    Method(
        "adapters",
        ("adapter", "adapters"),
        spaces.OF_STAGES["adapters"],
        ("pretrain",),
        judging.adapters,
        _of_adapters,
        carried=True,
    ),
    Method(
        "fuse",
        ("fusion", "fuse"),
        spaces.OF_STAGES["fuse"],
        ("pretrain", "adapters"),
        judging.fuse,
        _of_fusion,
        carried=True,
    ),
    Method(
        "finetune",
        ("whole",),
        spaces.OF_STAGES["finetune"],
        ("pretrain",),
        judging.finetune,
        _of_schedule("whole"),
    ),
    Method("single", ("backbone", "whole"), spaces.OF_STAGES["single"], (), judging.single, _of_schedule("whole")),
)
"""In the order in which they are searched: each stands on what was found for the stages before it."""
STAGES = tuple(method.name for method in _STAGES if method.carried)


def methods_of(config: Config, names: Sequence[str]) -> list[Method]:
    """Return what is searched, in order.

    Args:
        config: of the stages, or of a framework; it decides which names there are.
        names: of methods, each once; none stands for the three stages, or for what the configuration trains.

    Raises:
        ConfigError: there is no method of such a name for this configuration, or a name stands twice.
    """
    if isinstance(config, TrainingConfig):
        known = [method.name for method in _STAGES]
        chosen = set(_checked(names or STAGES, known, "a configuration of the stages"))
        if "fuse" in chosen and config.fusion.mode == "single":
            raise ConfigError("fusion.mode single trains no fusion, so fuse has nothing to search: set another mode")
        return [_where_selected(method, config) for method in _STAGES if method.name in chosen]
    own = config.framework if config.structure == "plain" else config.structure
    known = [*FRAMEWORKS, *BASELINES]
    return [
        Method(name, (), spaces.of_framework(name), (), judging.framework, _of_framework)
        for name in _checked(names or [own], known, "a configuration of a framework")
    ]


def _where_selected(method: Method, config: TrainingConfig) -> Method:
    """The method; where stages 2 and 3 select nothing, without the averages that they could not choose."""
    if config.select == "best":
        return method
    space = {key: values for key, values in method.space.items() if key not in ("adapters.average", "fuse.average")}
    return replace(method, space=space)


def started(method: Method, config: Config) -> Config:
    """Return the configuration that a method's search begins at: the given one, told to train that method.

    Raises:
        ConfigError: the configuration cannot train it.
    """
    if isinstance(config, TrainingConfig):
        return config
    if method.name in FRAMEWORKS:
        return _changed(config, framework=method.name)
    settings = config.settings if config.structure == method.name else {}
    return _changed(config, framework="mix", structure=method.name, settings=settings)


def _changed(config: MamdrConfig, **keys: Any) -> MamdrConfig:
    """The configuration with other keys, checked again."""
    return placed(config.model_copy(update=keys), {}, {})


def _checked(names: Sequence[str], known: Sequence[str], what: str) -> Sequence[str]:
    for place, name in enumerate(names):
        if name not in known:
            raise ConfigError(f"{what} has no method {name!r} to search; it has {', '.join(known)}")
        if name in names[:place]:
            raise ConfigError(f"{name} is named twice: every method is searched once")
    return names
