"""An evaluation laid out as tables of text, for RUN/report.md and for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from training.figures import BASELINE, DISPLAY, Average, Difference, Evaluation, Figures, MethodFigures

MOST_DOMAINS = 50
"""Domains in a table: the largest; report.json has all."""

_NONE = "–"
_BAYES = "best (Bayes)"
_SHOWN = ("single_lora", "multi_lora")


@dataclass(frozen=True)
class Table:
    """A table, ready to print.

    Args:
        title: what it shows.
        header: of each column.
        rows: cells of each row, the first of them its name.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def summary(evaluation: Evaluation) -> Table:
    """Every metric of every method over all test rows; the best possible ones where they are known."""
    lines: dict[str, Callable[[MethodFigures], str]] = {
        "AUC": lambda method: number(method.pooled.auc),
        "macro AUC": lambda method: number(method.macro.auc),
        "weighted AUC": lambda method: number(method.row_weighted.auc),
        "GAUC": lambda method: number(method.pooled.gauc),
        "LogLoss": lambda method: number(method.pooled.log_loss),
        "macro LogLoss": lambda method: number(method.macro.log_loss),
        "NE": lambda method: number(method.pooled.normalized_entropy),
        "pred / obs": lambda method: number(method.pooled.calibration),
        "ECE": lambda method: number(method.pooled.ece),
        "RelaImpr": lambda method: _percent(method.pooled.rela_impr),
        "RANK": lambda method: number(method.rank, 2),
    }
    if evaluation.bayes is not None:
        lines["gap closed"] = lambda method: _percent(method.pooled.recovered)
    columns = _columns(evaluation)
    rows = [[name, *(cell(method) for method in columns.values())] for name, cell in lines.items()]
    return Table("All test rows", ("metric", *columns), rows)


def auc_by_domain(evaluation: Evaluation) -> Table:
    """AUC with its interval: of every method, on every domain, pooled and averaged."""
    columns = _columns(evaluation)
    rows = [
        [name, size, *(_auc(pick(method)) for method in columns.values())] for name, size, pick in _scopes(evaluation)
    ]
    return Table("AUC by domain", ("domain", "rows", *columns), rows)


def differences(evaluation: Evaluation) -> Table:
    """AUC minus the backbone's, with its paired interval: of every other method."""
    columns = {name: method for name, method in _columns(evaluation).items() if name not in (DISPLAY[BASELINE], _BAYES)}
    rows = [
        [name, size, *(difference(pick(method).difference) for method in columns.values())]
        for name, size, pick in _scopes(evaluation)
    ]
    return Table("AUC minus the backbone's", ("domain", "rows", *columns), rows)


def gains(evaluation: Evaluation) -> Table:
    """What SingleLoRA and MultiLoRA add to the backbone; narrow enough for a terminal."""
    base = evaluation.methods.get(BASELINE)
    shown = {DISPLAY[name]: evaluation.methods[name] for name in _SHOWN if name in evaluation.methods}
    rows = [
        [
            name,
            _NONE if base is None else _plain(pick(base)),
            *(difference(pick(method).difference) for method in shown.values()),
        ]
        for name, _, pick in _scopes(evaluation)
    ]
    return Table("AUC by domain, and what is added to it", ("domain", "backbone", *shown), rows)


def number(value: float | None, digits: int = 4) -> str:
    """Print a number that may not be defined."""
    return _NONE if value is None else f"{value:.{digits}f}"


def difference(found: Difference | None) -> str:
    """Print a difference with its interval."""
    return _NONE if found is None else f"{found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def _columns(evaluation: Evaluation) -> dict[str, MethodFigures]:
    columns = {DISPLAY.get(name, name): method for name, method in evaluation.methods.items()}
    return columns if evaluation.bayes is None else columns | {_BAYES: evaluation.bayes}


def _scopes(evaluation: Evaluation) -> Iterator[tuple[str, str, Callable[[MethodFigures], Figures | Average]]]:
    """Yield each set of rows that a table shows: its name, its size, and where a method keeps its figures."""
    first = next(iter(evaluation.methods.values()))
    yield "all rows", f"{first.pooled.rows:,}", lambda method: method.pooled
    for name in evaluation.domains_by_rows()[:MOST_DOMAINS]:
        yield name, f"{first.domains[name].rows:,}", _domain(name)
    yield "macro mean", _NONE, lambda method: method.macro
    yield "weighted mean", _NONE, lambda method: method.row_weighted


def _domain(name: str) -> Callable[[MethodFigures], Figures]:
    return lambda method: method.domains[name]


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{value:+.2%}"


def _plain(figures: Figures | Average) -> str:
    if figures.auc is None and isinstance(figures, Figures):
        return "one class" if figures.rows else "no rows"
    return number(figures.auc)


def _auc(figures: Figures | Average) -> str:
    interval = "" if figures.low is None else f" [{number(figures.low)}, {number(figures.high)}]"
    return _plain(figures) + interval
