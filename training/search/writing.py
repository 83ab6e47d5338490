"""What a search leaves behind: tables of its trials, and each method's configuration as it was found."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from adapters_store.durable import write_durably
from training.errors import PreparedError
from training.frameworks.config import MamdrConfig
from training.reporting.markdown import to_markdown
from training.reporting.sections import Section
from training.search.found import Budget, Searched, Told
from training.search.space import Parameter, Range, Times, value_shown
from training.tables import Table, number
from training.trials.trial import Config

_TITLE = "Hyper-parameter search"
_SAID = (
    "Every method had the same budget. Trial 0 is the configuration as given; trials are judged on the `stop` half of "
    "validation alone, so the best one's figures are too good by what the best of so many is by chance: methods are "
    "compared on the test rows of their tuned configurations, over seeds."
)
_DIGITS = 5


def write_found(out: Path, found: Sequence[Searched], budget: Budget) -> None:
    """Write OUT/search.json, OUT/search.md and each method's OUT/<name>/config.yaml.

    Args:
        out: the folder of all searches.
        found: the finished ones.
        budget: of each.

    Raises:
        PreparedError: the folder cannot be written.
    """
    sections = [Section("", (_SAID,), table=summary(found)), *(_section(one) for one in found)]
    record = json.dumps(record_of(found, budget), indent=1, allow_nan=False) + "\n"
    try:
        for one in found:
            write_durably(out / one.name / "config.yaml", configured(one).encode())
        write_durably(out / "search.json", record.encode())
        write_durably(out / "search.md", to_markdown(_TITLE, sections).encode())
    except OSError as error:
        raise PreparedError(f"cannot write {out}: {error.strerror}") from None


def summary(found: Sequence[Searched]) -> Table:
    """A line for each method."""
    rows = []
    for one in found:
        given, best = one.told[0], one.best
        hours = sum(told.seconds for told in one.told) / 3600
        figures = [number(each, _DIGITS) for each in (given.judged.auc, best.judged.auc, best.judged.log_loss)]
        rows.append([one.name, str(len(one.told)), f"{hours:.2f}", *figures, str(best.number)])
    header = ("method", "trials", "hours", "AUC as given", "best AUC", "its LogLoss", "trial")
    return Table("Methods", header, rows)


def record_of(found: Sequence[Searched], budget: Budget) -> dict[str, Any]:
    """Everything as JSON values."""
    return {"budget": asdict(budget), "methods": {one.name: _record(one) for one in found}}


def configured(one: Searched) -> str:
    """A configuration as YAML, which `espalier train` takes as it is."""
    judged = one.best.judged
    head = [
        f"# Found by `espalier train search {one.name}`: trial {one.best.number} of {len(one.told)}, validation AUC "
        f"{number(judged.auc, _DIGITS)}",
        f"# ({number(one.told[0].judged.auc, _DIGITS)} as given), LogLoss {number(judged.log_loss, _DIGITS)}; "
        "search.md above this folder has all trials.",
    ]
    return "\n".join(head) + "\n" + yaml.safe_dump(_content(one.config), sort_keys=False)


def _content(config: Config) -> dict[str, Any]:
    """The configuration's keys; those that equal the defaults are left out, where no preset stands below them."""
    if not isinstance(config, MamdrConfig):
        return config.model_dump(mode="json", exclude_defaults=True)
    found = config.model_dump(mode="json", exclude_defaults=config.preset == "paper")
    return {"framework": config.framework, **found}  # by which the file is known for one of a framework


def _record(one: Searched) -> dict[str, Any]:
    return {
        "space": {key: parameter.model_dump(mode="json") for key, parameter in one.space.items()},
        "trials": [_told(told) for told in one.told],
        "given": _told(one.told[0]),
        "best": _told(one.best),
        "importance": dict(one.importance),
        "config": one.config.model_dump(mode="json"),
    }


def _told(told: Told) -> dict[str, Any]:
    return {
        "number": told.number,
        "point": dict(told.point),
        "auc": told.judged.auc,
        "log_loss": told.judged.log_loss,
        "seconds": told.seconds,
        "commit": told.commit,
    }


def _section(one: Searched) -> Section:
    rows = [
        [
            _name(one, told),
            number(told.judged.auc, _DIGITS),
            number(told.judged.log_loss, _DIGITS),
            f"{told.seconds:.1f}",
            *(value_shown(value) for value in told.point.values()),
        ]
        for told in one.told
    ]
    header = ("trial", "AUC", "LogLoss", "seconds", *(_key(key, one.space[key]) for key in one.space))
    return Section(one.name, tuple(_facts(one)), table=Table(one.name, header, rows))


def _facts(one: Searched) -> Iterator[str]:
    spans = "; ".join(f"`{key}` {_span(parameter)}" for key, parameter in one.space.items())
    yield f"Searched: {spans}."
    if one.importance:
        shares = ", ".join(f"`{key}` {share:.0%}" for key, share in one.importance.items())
        yield f"What tells the best tenth of the trials from the rest (PED-ANOVA; a rough guide): {shares}."
    commits = dict.fromkeys(told.commit for told in one.told if told.commit)
    if len(commits) > 1:
        yield f"**Trials came from {len(commits)} states of the code:** {', '.join(commits)}."
    without = sum(told.judged.auc is None for told in one.told)
    if without:
        yield f"{without} trials have no AUC: what they learned is not finite, or they could not be trained."


def _name(one: Searched, told: Told) -> str:
    marks = {one.best.number: "best", 0: "as given"}
    if told.number == one.best.number == 0:
        return "0 (as given, best)"
    return f"{told.number} ({marks[told.number]})" if told.number in marks else str(told.number)


def _key(key: str, parameter: Parameter) -> str:
    return f"{key}, times" if isinstance(parameter, Times) else key


def _span(parameter: Parameter) -> str:
    shown = [value_shown(value) for value in parameter.ends]
    if isinstance(parameter, Range):
        return " to ".join(shown) + (" on a log scale" if parameter.log else "")
    return f"{'times ' if isinstance(parameter, Times) else ''}{', '.join(shown)}"
