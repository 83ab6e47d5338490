"""`espalier evaluate --seeds`: several configurations over several seeds, and the table of what is there so far."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from adapters_store.durable import write_durably
from training.config import TrainingConfig, read_config
from training.errors import ConfigError
from training.frameworks.config import MamdrConfig
from training.reporting.markdown import to_markdown
from training.reporting.page import to_page
from training.reporting.sections import Section
from training.stages import folder_digest
from training.trials.sitting import Sat
from training.trials.table import METRICS, SeedsTable
from training.trials.trial import Config, Trial

_OF_FRAMEWORKS = MamdrConfig.model_fields.keys() - TrainingConfig.model_fields.keys()
"""Top-level keys that only a configuration of `espalier train mamdr` has."""
_OF_STAGES = TrainingConfig.model_fields.keys() - MamdrConfig.model_fields.keys()
_TITLE = "Methods over seeds"


def read_any(path: Path, **overrides: Any) -> Config:
    """Read a configuration of the three stages or of a framework, whichever the file has more keys of.

    Args:
        path: the YAML file.
        overrides: top-level keys that replace the file's, where not None.

    Raises:
        ConfigError: as `training.config.read_config`.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        content = None  # read_config says what is wrong
    keys = content.keys() if isinstance(content, dict) else set[str]()
    # the larger number, so that one key too many is named as unknown and not all the others
    of_frameworks = len(keys & _OF_FRAMEWORKS) > len(keys & _OF_STAGES)
    if of_frameworks:
        return read_config(path, MamdrConfig, **overrides)
    return read_config(path, TrainingConfig, **overrides)


def trials_of(configs: Mapping[str, Config], seeds: int, commit: str) -> list[Trial]:
    """Return the trials of a table, seed by seed, so that a sitting that ends early leaves whole pairs.

    Args:
        configs: by the name that the table calls them.
        seeds: how many; they are 0, 1, ...
        commit: of the code.

    Raises:
        ConfigError: a configuration names no data, or a folder that is not there.
    """
    data = {name: _data_digest(name, config) for name, config in configs.items()}
    return [
        Trial(name, config.model_copy(update={"seed": seed}), data[name], commit)
        for seed in range(seeds)
        for name, config in configs.items()
    ]


def _data_digest(name: str, config: Config) -> str:
    if config.data is None:
        raise ConfigError(f"{name} names no data: set `data` in the configuration, or give --data DIR")
    if not config.data.is_dir():
        raise ConfigError(f"{name}: {config.data} is no folder of prepared data; `espalier data prepare` makes one")
    return folder_digest(config.data)


def write_seeds(out: Path, table: SeedsTable, sat: Sat, trials: Sequence[Trial]) -> Path:
    """Write seeds.html, seeds.md and, last, seeds.json.

    Args:
        out: the folder of the table, which is there.
        table: of what the sitting found.
        sat: what it left, and which results came from other code.
        trials: all that belong to the table.

    Returns:
        The file seeds.html.
    """
    said = tuple(_said(sat, trials))
    tables = [*(table.over_seeds(metric) for metric in METRICS), table.by_domain()]
    sections = [Section("", said), *(Section(each.title, table=each) for each in tables)]
    write_durably(out / "seeds.md", to_markdown(_TITLE, sections).encode())
    write_durably(out / "seeds.html", to_page(_TITLE, sections, out).encode())
    commits = {f"{t.method}, seed {t.seed}": commit for t, commit in sat.other_commits.items()}
    missing = [{"method": trial.method, "seed": trial.seed} for trial in sat.missing]
    content = {"commit": trials[0].commit, "other_commits": commits, "missing": missing, **table.record()}
    write_durably(out / "seeds.json", (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    return out / "seeds.html"


def _said(sat: Sat, trials: Sequence[Trial]) -> Iterator[str]:
    yield (
        f"{len(sat.found)} of {len(trials)} trainings are done, by code `{trials[0].commit}`. A seed decides the "
        "training and, where the data brings no split of its own, the split; so methods are compared seed by seed. "
        "Brackets are 95% intervals of the mean difference by Student's t, p is two-sided, of the paired t-test, and "
        "p (Holm) takes all lines of a table together. They hold over seeds, not over other data."
    )
    if sat.other_commits:
        commits = ", ".join(sorted(set(sat.other_commits.values())))
        yield f"{len(sat.other_commits)} of them are of other code: {commits}."
    if sat.missing:
        left = ", ".join(f"{trial.method} seed {trial.seed}" for trial in sat.missing[:20])
        more = f" and {len(sat.missing) - 20} more" if len(sat.missing) > 20 else ""
        yield f"**Not finished:** {left}{more}. The same command goes on."
