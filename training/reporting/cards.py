"""A card for each natural domain: every method's AUC, the gate's decision, and how its adapter learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree.ElementTree import Element

from training.figures import DISPLAY, Evaluation, Figures
from training.reporting.drawings import Estimate, curve, intervals
from training.reporting.elements import element, prose
from training.tables import MOST_DOMAINS

_BAYES = "best (Bayes)"


def cards(evaluation: Evaluation, record: Mapping[str, Any]) -> list[Element]:
    """Return the cards of the largest domains.

    Args:
        evaluation: of the test rows.
        record: what the report says of the training; parts that it lacks are left out.
    """
    return [_card(name, evaluation, record) for name in evaluation.domains_by_rows()[:MOST_DOMAINS]]


def _card(name: str, evaluation: Evaluation, record: Mapping[str, Any]) -> Element:
    rows = next(iter(evaluation.methods.values())).domains[name]
    verdict = (record.get("gate") or {}).get("domains", {}).get(name)
    decided = "" if verdict is None else ("; passes the gate" if verdict["passed"] else "; does not pass the gate")
    heading = element("summary", element("strong", name), f" – {rows.rows:,} test rows{decided}")
    found = element("details", heading, class_="card")
    found.extend(_inside(name, evaluation, record, verdict))
    return found


def _inside(
    name: str, evaluation: Evaluation, record: Mapping[str, Any], verdict: Mapping[str, Any] | None
) -> Iterator[Element]:
    if verdict is not None:
        yield prose(f"Gate, on {verdict['rows']:,} rows that nothing else saw: {verdict['reason']}.")
    drawn = intervals(list(_estimates(name, evaluation)), f"Test AUC of {name} by method")
    if drawn is None:
        one_class = next(iter(evaluation.methods.values())).domains[name].rows > 0
        yield prose("No AUC: its test rows have one class only." if one_class else "No AUC: it has no test rows.")
    else:
        yield _figure(drawn, f"Test AUC, with {evaluation.confidence:.0%} intervals")
    learned = record.get("adapters", {}).get(name)
    points = [] if learned is None else [(e["epoch"], e["auc"]) for e in learned["history"] if e["auc"] is not None]
    drawn = None if learned is None else curve(points, learned["epoch"], f"Validation AUC of {name} by epoch")
    if drawn is not None:
        yield _figure(drawn, "Validation AUC of its adapter by epoch; the ring marks the one that was kept")


def _estimates(name: str, evaluation: Evaluation) -> Iterator[Estimate]:
    for method, figures in evaluation.methods.items():
        yield from _estimate(DISPLAY.get(method, method), figures.domains[name])
    if evaluation.bayes is not None:
        yield from _estimate(_BAYES, evaluation.bayes.domains[name])


def _estimate(shown: str, figures: Figures) -> Iterator[Estimate]:
    auc = figures.auc
    if auc is not None:
        ends = (auc if end is None else end for end in (figures.low, figures.high))
        yield Estimate(shown, auc, *ends)


def _figure(drawn: Element, caption: str) -> Element:
    return element("figure", drawn, element("figcaption", caption))
