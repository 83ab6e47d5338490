"""Student's t and the paired test, held to numeric integration and to the plain formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.trials.student import holm, inside, paired, quantile


def integrated(t: float, df: int) -> float:
    """P(|T| <= t) as the integral of the density, by Simpson's rule."""
    x = np.linspace(0.0, t, 20_001)
    constant = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    density = constant * (1.0 + x * x / df) ** (-(df + 1) / 2)
    weights = np.ones(len(x))
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    return float(2.0 * (x[1] - x[0]) / 3.0 * (weights @ density))


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 8, 9, 30])
@pytest.mark.parametrize("t", [0.3, 1.0, 2.776, 6.0])
def test_inside_is_the_integral_of_the_density(t: float, df: int) -> None:
    """Law: the closed form equals the integral, for either sign of t."""
    assert inside(t, df) == pytest.approx(integrated(t, df), abs=1e-10)
    assert inside(-t, df) == inside(t, df)


@pytest.mark.parametrize(("df", "point"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622)])
def test_quantiles_are_those_of_the_tables(df: int, point: float) -> None:
    """Law: the 97.5% points, as printed."""
    assert quantile(0.95, df) == pytest.approx(point, abs=6e-5)


def test_paired_is_the_one_sample_test_of_differences() -> None:
    """Law: t = mean / (sd / sqrt(n)) of the differences, with n - 1 degrees of freedom."""
    values, base = [0.75, 0.85, 0.65, 0.70], [0.74, 0.82, 0.63, 0.71]
    d = np.array(values) - np.array(base)
    error = d.std(ddof=1) / 2.0
    found = paired(values, base)
    assert found.mean == pytest.approx(d.mean())
    assert found.p == pytest.approx(1.0 - integrated(abs(d.mean()) / error, 3), abs=1e-9)
    assert (found.low, found.high) == (
        pytest.approx(d.mean() - 3.182446 * error),
        pytest.approx(d.mean() + 3.182446 * error),
    )
    assert found.seeds == 4


def test_pairs_matter_and_not_the_spread_of_the_seeds() -> None:
    """Law: a small difference that every seed shows is found, however far the seeds lie apart."""
    found = paired([0.61, 0.721, 0.80], [0.60, 0.710, 0.791])
    assert found.p is not None
    assert found.p < 0.01


@pytest.mark.parametrize(("values", "base"), [([0.7], [0.6]), ([0.5, 0.75], [0.5, 0.75])])
def test_no_test_without_spread(values: list[float], base: list[float]) -> None:
    """Law: one seed, or differences that are all equal, have no p."""
    assert paired(values, base).p is None


def test_seeds_must_match() -> None:
    """Law: two methods with another number of seeds are no pairs."""
    with pytest.raises(ValueError, match=r"longer|shorter"):
        paired([0.5, 0.6], [0.5])


def test_holm_steps_down() -> None:
    """Law: the smallest p times the number of tests, the next times one fewer, never falling, never above one."""
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.9}) == {
        "b": pytest.approx(0.04),
        "c": pytest.approx(0.09),
        "a": pytest.approx(0.09),
        "d": pytest.approx(0.9),
    }
    assert holm({"a": 0.8, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}
