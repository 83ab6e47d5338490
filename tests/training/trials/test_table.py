"""Tables over seeds, held to plain numpy on scores that are written down."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.training.trials.planned import scores, trial
from training.trials.errors import NoComparison
from training.trials.kept import Found
from training.trials.table import SeedsTable, check_against
from training.trials.trial import Trial

BASE = (0.70, 0.74, 0.66)
SERVED = (0.72, 0.75, 0.69)


def result(**methods: dict[str, Any]) -> Found:
    """A kept result of some methods."""
    return {"rows": {"small": 5, "large": 50}, "scores": methods, "seconds": 1.0}


def one_configuration() -> dict[Trial, Found]:
    """A backbone and what is served, over three seeds; `small` has no AUC with seed 1."""
    return {
        trial(seed=seed): result(
            backbone=scores(base, small=None if seed == 1 else 0.5, large=base),
            multi_lora=scores(served, small=None if seed == 1 else 0.6 + seed / 100, large=served),
        )
        for seed, (base, served) in enumerate(zip(BASE, SERVED, strict=True))
    }


def test_a_line_has_mean_spread_and_paired_difference() -> None:
    """Law: sample standard deviation over seeds; the paired difference with Student's interval; the base has none."""
    table = SeedsTable(one_configuration()).over_seeds("auc")
    d = np.array(SERVED) - np.array(BASE)
    half = 4.302653 * d.std(ddof=1) / np.sqrt(3)
    base, served = table.rows
    assert list(base) == ["backbone", "3", f"0.7000 ± {np.std(BASE, ddof=1):.4f}", "–", "–", "–"]
    assert list(served)[:3] == ["MultiLoRA", "3", f"{np.mean(SERVED):.4f} ± {np.std(SERVED, ddof=1):.4f}"]
    assert served[3] == f"{d.mean():+.4f} [{d.mean() - half:+.4f}, {d.mean() + half:+.4f}]"
    assert served[4] == served[5]  # one comparison alone
    assert 0.0 < float(served[4]) < 0.1


def test_only_seeds_that_both_have_are_paired() -> None:
    """Law: an unfinished table pairs what is there; means take every seed that a line has."""
    found = one_configuration() | {trial("deep", 2): result(backbone=scores(0.80, large=0.80))}
    table = SeedsTable(found, "base:backbone").over_seeds("auc")
    (deep,) = [row for row in table.rows if row[0] == "deep: backbone"]
    assert list(deep) == ["deep: backbone", "1", "0.8000", f"{0.80 - BASE[2]:+.4f}", "–", "–"]


def test_domains_stand_by_size_and_skip_what_is_not_defined() -> None:
    """Law: the largest first; a seed where a domain has no AUC counts on neither side."""
    large, small = SeedsTable(one_configuration()).by_domain().rows
    assert (large[0], large[1]) == ("large", "50")
    assert (small[0], small[2]) == ("small", "0.5000 ± 0.0000")
    assert small[3].startswith(f"{np.mean([0.10, 0.12]):+.4f} [")


def test_the_base_is_the_first_backbone_or_what_is_named() -> None:
    """Law: a line is named as it is printed or as it is kept; an unknown name is refused with those that there are."""
    found = one_configuration()
    assert SeedsTable(found).base.name == "backbone"
    assert SeedsTable(found, "multi_lora").base.name == SeedsTable(found, "MultiLoRA").base.name == "multi_lora"
    with pytest.raises(NoComparison, match="backbone, multi_lora"):
        SeedsTable(found, "mix")
    with pytest.raises(NoComparison, match="no training is finished"):
        SeedsTable({})


def test_configurations_are_told_apart() -> None:
    """Law: with several configurations each line carries its own's name."""
    found = one_configuration() | {trial("deep", 0): result(backbone=scores(0.8, large=0.8))}
    assert [line.name for line in SeedsTable(found).lines] == ["base:backbone", "base:multi_lora", "deep:backbone"]


def test_lines_of_several_configurations_are_told_apart_from_the_first() -> None:
    """Law: a line has the same name in an unfinished table and in the whole one."""
    table = SeedsTable(one_configuration(), several=True)
    assert [line.name for line in table.lines] == ["base:backbone", "base:multi_lora"]
    assert table.base.name == "base:backbone"


@pytest.mark.parametrize(
    ("against", "configs", "said"),
    [
        ("mux:backbone", ("wide", "mix"), "called like wide:backbone, mix:backbone"),
        ("backbone", ("wide", "mix"), "names no line"),
        ("mix:backbone", ("mix",), "called like 'backbone'"),
    ],
)
def test_a_name_that_no_training_brings_is_refused_at_once(against: str, configs: tuple[str, ...], said: str) -> None:
    """Law: the configuration's part of a line's name is checked before anything is trained."""
    with pytest.raises(NoComparison, match=said):
        check_against(against, configs)


def test_names_as_kept_and_as_printed_are_taken() -> None:
    """Law: `mix:multi_lora`, `mix: MultiLoRA` and, of one configuration, the method alone."""
    for against in ("mix:multi_lora", "mix: MultiLoRA"):
        check_against(against, ("wide", "mix"))
    check_against("multi_lora", ("mix",))


def test_the_record_is_json_with_every_seed() -> None:
    """Law: a program finds each seed's figures and each test, and nothing that JSON does not have."""
    record = json.loads(json.dumps(SeedsTable(one_configuration()).record(), allow_nan=False))
    assert record["against"] == "backbone"
    served = record["methods"]["multi_lora"]
    assert [served["seeds"][str(seed)]["auc"] for seed in range(3)] == list(SERVED)
    assert served["against"]["auc"]["mean"] == pytest.approx(np.mean(np.array(SERVED) - np.array(BASE)))
    assert record["methods"]["backbone"]["against"] == {}
