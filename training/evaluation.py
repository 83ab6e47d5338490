"""Evaluation of all methods on the same test rows: per domain, pooled and averaged, with intervals (methods.md 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training import metrics
from training.figures import BASELINE, SERVED, Average, Difference, Evaluation, Figures, MethodFigures
from training.metrics import Array, rows_by_domain
from training.predictions import Predictions
from training.resampling import CONFIDENCE, Draws, auc_draws, interval

DRAWS = 1000
_BAYES = "bayes"
_NEARLY = 1e-12


@dataclass(frozen=True)
class _Scope:
    """All methods on one set of rows: their figures, and AUC draws (draws,) that one resample shares."""

    figures: Mapping[str, Figures]
    draws: Mapping[str, Draws]


def evaluate(predictions: Predictions, seed: int = 0, draws: int = DRAWS) -> Evaluation:
    """Compare the methods of a run on its test rows.

    Args:
        predictions: of every method, for the same rows.
        seed: of the bootstrap.
        draws: bootstrap resamples.

    Returns:
        Every figure of methods.md 5; a domain without rows or with one class has None for its AUC.
    """
    scores = dict(predictions.logits)
    if predictions.probability is not None:
        scores[_BAYES] = _logit(predictions.probability)
    everything = np.arange(len(predictions.label))
    pooled = _scope(predictions, scores, everything, draws, np.random.default_rng([seed, 0]))
    parts = rows_by_domain(predictions.domain, len(predictions.domains))
    domains = {
        name: _scope(predictions, scores, part, draws, np.random.default_rng([seed, 1 + position]))
        for position, (name, part) in enumerate(zip(predictions.domains, parts, strict=True))
    }
    twin = _twin(predictions.logits)
    ranks = _ranks([method for method in predictions.logits if twin is None or method != SERVED], domains)
    if twin in ranks:
        ranks[SERVED] = ranks[twin]
    found = {method: _method(method, pooled, domains, ranks.get(method)) for method in scores}
    bayes = found.pop(_BAYES, None)
    return Evaluation(confidence=CONFIDENCE, draws=draws, seed=seed, methods=found, bayes=bayes)


def _logit(probability: metrics.Floats) -> metrics.Floats:
    """Turn true probabilities into logits; kept away from 0 and 1, so that all are finite."""
    inside = np.clip(probability, _NEARLY, 1.0 - _NEARLY)
    logit: metrics.Floats = np.log(inside) - np.log1p(-inside)
    return logit


def _scope(
    predictions: Predictions, scores: Mapping[str, Array], rows: Array, draws: int, generator: np.random.Generator
) -> _Scope:
    label, user = predictions.label[rows], predictions.user[rows]
    mine = {method: score[rows] for method, score in scores.items()}
    sampled = auc_draws(label, list(mine.values()), draws, generator)
    by_method = dict(zip(mine, sampled, strict=True))
    aucs = {method: metrics.auc(label, score) for method, score in mine.items()}
    figures = {
        method: Figures(
            **_ranked(method, aucs, by_method),
            **_fit(label, score),
            rows=len(rows),
            positives=int(np.sum(label)),
            gauc=metrics.gauc(label, score, user) if len(rows) else None,
        )
        for method, score in mine.items()
    }
    return _Scope(figures, by_method)


def _fit(label: Array, logit: Array) -> dict[str, Any]:
    """How far the probabilities are right, not only their order; None for each where there are no rows."""
    if len(label) == 0:
        return dict.fromkeys(("log_loss", "normalized_entropy", "calibration", "ece"))
    probability = metrics.probabilities(logit)
    return {
        "log_loss": metrics.log_loss(label, probability),
        "normalized_entropy": metrics.normalized_entropy(label, probability),
        "calibration": metrics.calibration(label, probability),
        "ece": metrics.ece(label, probability),
    }


def _ranked(method: str, aucs: Mapping[str, float | None], draws: Mapping[str, Draws]) -> dict[str, Any]:
    """A method's AUC with its interval, and against the backbone's and the best possible one."""
    auc, base, best = aucs[method], aucs.get(BASELINE), aucs.get(_BAYES)
    low, high = interval(draws[method]) or (None, None)
    found: dict[str, Any] = {"auc": auc, "low": low, "high": high}
    if method == BASELINE or auc is None or base is None:
        return found
    ends = interval(draws[method] - draws[BASELINE])
    if ends is not None:
        found["difference"] = Difference(value=auc - base, low=ends[0], high=ends[1])
    found["rela_impr"] = metrics.rela_impr(auc, base)
    if method != _BAYES and best is not None and best > base:
        found["recovered"] = (auc - base) / (best - base)
    return found


def _method(method: str, pooled: _Scope, domains: Mapping[str, _Scope], rank: float | None) -> MethodFigures:
    scopes = [scope for scope in domains.values() if scope.figures[method].auc is not None]
    rows = [scope.figures[method].rows for scope in scopes]
    return MethodFigures(
        pooled=pooled.figures[method],
        domains={name: scope.figures[method] for name, scope in domains.items()},
        macro=_average(method, scopes, [1] * len(scopes)),
        row_weighted=_average(method, scopes, rows),
        rank=rank,
    )


def _average(method: str, scopes: Sequence[_Scope], weights: Sequence[int]) -> Average:
    """Average over domains; its interval comes from the domains' own resamples, averaged draw by draw."""
    if not scopes:
        return Average(auc=None, low=None, high=None, log_loss=None, domains=0)
    methods = [m for m in scopes[0].figures if m in (method, BASELINE, _BAYES)]  # what `_ranked` compares
    aucs = {m: _mean([scope.figures[m].auc for scope in scopes], weights) for m in methods}
    draws = {m: _mean_draws([scope.draws[m] for scope in scopes], weights) for m in methods}
    loss = _mean([scope.figures[method].log_loss for scope in scopes], weights)
    return Average(**_ranked(method, aucs, draws), log_loss=loss, domains=len(scopes))


def _mean(values: Sequence[float | None], weights: Sequence[int]) -> float:
    return float(np.average(np.array(values, dtype=np.float64), weights=weights))


def _mean_draws(draws: Sequence[Draws], weights: Sequence[int]) -> Draws:
    """Average each draw over the domains whose resample has an AUC; NaN where none has."""
    stacked, weight = np.stack(draws), np.array(weights, dtype=np.float64)[:, None]
    defined = np.isfinite(stacked)
    total = np.where(defined, weight, 0.0).sum(axis=0)
    summed = (np.where(defined, stacked, 0.0) * weight).sum(axis=0)
    mean: Draws = np.divide(summed, total, out=np.full(len(total), np.nan), where=total > 0)
    return mean


def _twin(logits: Mapping[str, Array]) -> str | None:
    """The method that is served under a second name, None where there is none."""
    if SERVED not in logits:
        return None
    others = (method for method in logits if method != SERVED)
    return next((method for method in others if np.array_equal(logits[method], logits[SERVED])), None)


def _ranks(methods: Sequence[str], domains: Mapping[str, _Scope]) -> dict[str, float]:
    """RANK: the mean over domains of each method's place by AUC, 1 the best, equal ones sharing the mean place."""
    aucs = [[scope.figures[method].auc for method in methods] for scope in domains.values()]
    table = np.array([line for line in aucs if None not in line], dtype=np.float64).reshape(-1, len(methods))
    if len(table) == 0:
        return {}
    better = (table[:, None, :] > table[:, :, None]).sum(axis=2)
    equal = (table[:, None, :] == table[:, :, None]).sum(axis=2) - 1
    places = (1.0 + better + 0.5 * equal).mean(axis=0)
    return {method: float(place) for method, place in zip(methods, places, strict=True)}
