"""Laws of the table of baselines: settings are checked, counts are what the formulas say."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from network.inputs import FieldShape, NetworkShape
from training.baselines.settings import MmoeSettings
from training.baselines.table import BASELINES, build_baseline, parameter_counts, settings_of
from training.errors import ConfigError

VALUES = {"user": 6040, "movie": 3706, "gender": 2, "occupation": 21, "zip": 3439, "genre": 18, "domain": 3}
MOVIELENS = NetworkShape(
    (*(FieldShape(name, "sparse", count + 1) for name, count in VALUES.items()), FieldShape("age", "dense"))
)
TABLE_ROWS = 13_229 + 7


def linear(k: int, d: int) -> int:
    """Weights and biases."""
    return k * d + d


def hidden(k: int, d: int) -> int:
    """A hidden layer with its norm's weight and bias."""
    return linear(k, d) + 2 * d


TOWER = hidden(256, 128) + linear(128, 1)
CELL = 2 * (128 * 16 + 16 * 32) + 32 + 128 + 2 * 128
COUNTS = {
    "shared_bottom": hidden(113, 256) + 3 * TOWER,
    "mmoe": 8 * hidden(113, 256) + 3 * 8 * 113 + 3 * TOWER,
    "cgc": 5 * hidden(113, 256) + 3 * 3 * 113 + 3 * TOWER,
    "ple": 5 * (hidden(113, 256) + hidden(256, 256)) + 3 * 3 * (113 + 256) + 5 * 113 + 3 * TOWER,
    "star": 4 * (linear(113, 256) + linear(256, 128) + linear(128, 1) + 2 * 113) + 3 * 16
    + hidden(16 + 113, 32) + linear(32, 1),
    "hamur": hidden(113, 256) + TOWER + hidden(113, 64) + linear(64, 256) + 3 * CELL,
    "plate": hidden(113, 256) + TOWER + 3 * 16 + linear(113, 32) + linear(32, 16) + 32 * 256,
}  # fmt: skip


@pytest.mark.parametrize("name", BASELINES)
def test_counts_at_the_movielens_shape_are_those_of_the_formulas(name: str) -> None:
    """Law: docs/baselines.md's counts for three domains, tower [256,128], E 16, follow from the formulas by hand."""
    counts = parameter_counts(build_baseline(name, MOVIELENS, 3))
    assert counts == {
        "embeddings": TABLE_ROWS * 16,
        "dense": COUNTS[name],
        "all": TABLE_ROWS * 16 + COUNTS[name],
    }


def test_every_baseline_takes_its_defaults() -> None:
    """Law: no settings are needed, for a tower of one hidden layer neither."""
    for name in BASELINES:
        assert settings_of(name, {}) == BASELINES[name].settings()
        build_baseline(name, NetworkShape((FieldShape("u", "sparse", 5),), width=2, tower=(4,)), 2)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("mmoe", {"expert": 4}, "expert is no known key; did you mean 'experts'"),
        ("mmoe", {"experts": 0}, "experts: input should be greater than or equal to 1, got 0"),
        ("shared_bottom", {"bottom": [8, -1]}, "bottom.1"),
        ("star", {"norm_at": "output"}, "norm_at"),
        ("hamur", {"cells": []}, "names no layer"),
        ("hamur", {"hyper": []}, "hyper"),
        ("ple", {"levels": 0}, "levels"),
        ("mmoe", {"bottom": []}, "experts without one would all be the same"),
        ("moe", {}, "'moe' is no baseline; there are shared_bottom, mmoe"),
    ],
)
def test_a_wrong_setting_is_named(name: str, values: dict[str, Any], message: str) -> None:
    """Law: the error names the key and what it may be."""
    with pytest.raises(ConfigError, match=message):
        settings_of(name, values)


def test_domains_may_share_nothing_but_embeddings() -> None:
    """Law: Shared-Bottom without a bottom is a tower of each domain's own over shared embeddings."""
    baseline = build_baseline("shared_bottom", MOVIELENS, 3, {"bottom": [], "tower": [5]})
    assert parameter_counts(baseline)["dense"] == 3 * (hidden(113, 5) + linear(5, 1))


def test_settings_do_not_change() -> None:
    """Law: settings are frozen."""
    settings = MmoeSettings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.experts = 3  # type: ignore[misc]
