"""The evaluation, held to metrics of the same rows and to its own definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.training.scored import DOMAINS, scored_rows
from training import metrics
from training.evaluation import evaluate
from training.figures import Evaluation

DRAWS = 200


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Of the scored rows."""
    return evaluate(scored_rows(), seed=1, draws=DRAWS)


def test_figures_are_the_metrics_of_their_rows(evaluation: Evaluation) -> None:
    """Law: each set of rows, pooled or of a domain, has the exact metrics of exactly these rows."""
    rows = scored_rows()
    for method, logit in rows.logits.items():
        found = evaluation.methods[method]
        for mask, figures in (
            (np.ones(len(logit), bool), found.pooled),
            (rows.domain == 0, found.domains["large"]),
            (rows.domain == 1, found.domains["small"]),
        ):
            label, mine = rows.label[mask], logit[mask]
            assert (figures.rows, figures.positives) == (mask.sum(), label.sum())
            assert figures.auc == metrics.auc(label, mine)
            assert figures.gauc == metrics.gauc(label, mine, rows.user[mask])
            assert figures.log_loss == pytest.approx(np.mean(np.logaddexp(0, mine) - label * mine))
            assert figures.ece == metrics.ece(label, metrics.probabilities(mine))


def test_one_class_is_said_and_not_scored(evaluation: Evaluation) -> None:
    """Law: a domain with one class or no rows has no AUC, no interval and no difference, but its rows are counted."""
    for method in evaluation.methods.values():
        single, empty = method.domains["clicks-only"], method.domains["empty"]
        assert single.one_class
        assert single.rows == single.positives > 0
        assert empty.rows == 0
        assert empty.log_loss is None
        assert single.log_loss is not None
        for figures in (single, empty):
            assert (figures.auc, figures.low, figures.high, figures.difference) == (None, None, None, None)


def test_averages_are_over_the_domains_that_have_an_auc(evaluation: Evaluation) -> None:
    """Law: macro is the plain mean, row-weighted the mean by rows, both without the domains of one class."""
    for method in evaluation.methods.values():
        large, small = method.domains["large"], method.domains["small"]
        assert large.auc is not None
        assert small.auc is not None
        assert method.macro.domains == method.row_weighted.domains == 2
        assert method.macro.auc == pytest.approx((large.auc + small.auc) / 2)
        weighted = (large.auc * large.rows + small.auc * small.rows) / (large.rows + small.rows)
        assert method.row_weighted.auc == pytest.approx(weighted)


def test_differences_are_to_the_backbone(evaluation: Evaluation) -> None:
    """Law: every method but the backbone states AUC minus backbone's, inside its interval, wherever an AUC exists."""
    base = evaluation.methods["backbone"]
    assert base.pooled.difference is None
    for name, method in evaluation.methods.items():
        if name == "backbone":
            continue
        for mine, its in ((method.pooled, base.pooled), (method.macro, base.macro)):
            assert mine.auc is not None
            assert its.auc is not None
            assert mine.difference is not None
            assert mine.difference.value == pytest.approx(mine.auc - its.auc)
            assert mine.difference.low < mine.difference.value < mine.difference.high
            assert mine.rela_impr == metrics.rela_impr(mine.auc, its.auc)


def test_a_method_equal_to_the_backbone_differs_by_nothing() -> None:
    """Law: an adapter that changes no score has difference 0 with interval [0, 0], not noise around it."""
    rows = scored_rows()
    same = evaluate(replace(rows, logits=dict.fromkeys(("backbone", "multi_lora"), rows.logits["backbone"])), 0, 50)
    for figures in (same.methods["multi_lora"].pooled, same.methods["multi_lora"].macro):
        assert figures.difference is not None
        assert (figures.difference.value, figures.difference.low, figures.difference.high) == (0.0, 0.0, 0.0)
    assert [method.rank for method in same.methods.values()] == [1.0, 1.0]


def test_the_true_probabilities_bound_every_method(evaluation: Evaluation) -> None:
    """Law: the Bayes AUC is that of the true probabilities, above all methods; `recovered` is the share of its gap."""
    rows = scored_rows()
    assert evaluation.bayes is not None
    best = evaluation.bayes.pooled.auc
    assert best == metrics.auc(rows.label, rows.probability)
    base, multi = evaluation.methods["backbone"].pooled.auc, evaluation.methods["multi_lora"].pooled
    assert best is not None
    assert base is not None
    assert multi.auc is not None
    assert best > multi.auc > base
    assert multi.recovered == pytest.approx((multi.auc - base) / (best - base))


def test_without_probabilities_there_is_no_bayes() -> None:
    """Law: real data has no known optimum, and none is invented."""
    found = evaluate(scored_rows(synthetic=False), 0, 50)
    assert found.bayes is None
    assert all(method.pooled.recovered is None for method in found.methods.values())


def test_rank_is_the_mean_place(evaluation: Evaluation) -> None:
    """Law: RANK averages a method's place over domains, 1 the best; all places add up to those of the methods."""
    ranks = {name: method.rank for name, method in evaluation.methods.items()}
    assert ranks["multi_lora"] == 1.0
    assert sum(rank for rank in ranks.values() if rank is not None) == pytest.approx(15.0)


def test_what_is_served_takes_no_place_of_its_own(evaluation: Evaluation) -> None:
    """Law: the served method ranks as the one that it is, and pushes no other one down."""
    rows = scored_rows()
    twins = evaluate(replace(rows, logits={**rows.logits, "multi_lora_attention": rows.logits["multi_lora"]}), 0, 50)
    ranks = {name: method.rank for name, method in twins.methods.items()}
    assert ranks.pop("multi_lora_attention") == 1.0
    assert ranks == {name: method.rank for name, method in evaluation.methods.items()}


def test_absent_methods_are_absent() -> None:
    """Law: a run that lacks methods, even the backbone, is evaluated without them."""
    rows = scored_rows()
    found = evaluate(replace(rows, logits={"multi_lora": rows.logits["multi_lora"]}), 0, 50)
    assert list(found.methods) == ["multi_lora"]
    assert found.methods["multi_lora"].pooled.difference is None


def test_no_usable_domain_leaves_the_pooled_figures() -> None:
    """Law: where no domain has both classes, averages and RANK are not defined, and the pooled AUC still is."""
    rows = scored_rows()
    found = evaluate(replace(rows, domain=np.full(len(rows.label), -1)), 0, 50).methods["multi_lora"]
    assert found.pooled.auc is not None
    assert (found.macro.auc, found.row_weighted.auc, found.rank, found.macro.domains) == (None, None, None, 0)


def test_the_same_seed_gives_the_same_evaluation(evaluation: Evaluation) -> None:
    """Law: an evaluation can be repeated to the last digit, and survives JSON unchanged."""
    assert evaluate(scored_rows(), seed=1, draws=DRAWS) == evaluation
    assert Evaluation.model_validate_json(evaluation.model_dump_json()) == evaluation


def test_domains_are_listed_by_size(evaluation: Evaluation) -> None:
    """Law: reports show the largest domain first, and every domain once."""
    ordered = evaluation.domains_by_rows()
    assert ordered == ["large", "small", "clicks-only", "empty"]
    assert sorted(ordered) == sorted(DOMAINS)
