"""The drawings of a page: every mark lies where its number says."""

from __future__ import annotations

from xml.etree.ElementTree import Element

import pytest

from training.reporting.drawings import Axis, Estimate, curve, intervals


def marks(drawn: Element | None, tag: str, *names: str) -> list[tuple[float, ...]]:
    """Numbers of all elements of a tag, by attribute."""
    assert drawn is not None
    return [tuple(float(found.get(name, "nan")) for name in names) for found in drawn.iter(tag)]


def test_an_axis_is_linear_and_holds_all() -> None:
    """Law: equal steps of value are equal steps of pixels, all values lie on it, and so do its round ticks."""
    axis = Axis.over([0.70, 0.74, 0.78], 100.0, 300.0)
    left, middle, right = (axis.at(value) for value in (0.70, 0.74, 0.78))
    assert middle - left == pytest.approx(right - middle)
    assert 100.0 < left < right < 300.0
    assert len(axis.ticks()) >= 2
    assert all(100.0 <= axis.at(value) <= 300.0 for value in axis.ticks())


@pytest.mark.parametrize("values", [[0.5], [0.0], [-2.0, -2.0]])
def test_an_axis_of_one_value_has_a_length(values: list[float]) -> None:
    """Law: nothing is divided by the distance of equal values."""
    axis = Axis.over(values, 0.0, 100.0)
    assert axis.at(values[0]) == pytest.approx(50.0)


def test_each_estimate_lies_inside_its_interval() -> None:
    """Law: a line a method from low to high, its dot at the value, on one scale for all."""
    drawn = intervals([Estimate("a", 0.75, 0.70, 0.80), Estimate("b", 0.72, 0.72, 0.72)], "what")
    dots = marks(drawn, "circle", "cx", "cy")
    lines = [line for line in marks(drawn, "line", "x1", "x2", "y1", "y2") if line[2] == line[3]]
    (low, high, *_), (same, also, *_) = lines
    assert dots[0][0] == pytest.approx((low + high) / 2, abs=0.11)
    assert dots[1][0] == same == also
    assert dots[1][0] == pytest.approx(low + (high - low) * 0.2, abs=0.11)
    assert [dot[1] for dot in dots] == [line[2] for line in lines]
    assert drawn is not None
    assert drawn.findtext("title") == "what"


def test_the_ring_is_at_the_epoch_that_was_kept() -> None:
    """Law: a dot an epoch, from left to right, higher values higher up; the ring around the kept one alone."""
    drawn = curve([(0, 0.70), (1, 0.74), (2, 0.72)], 1, "what")
    found = marks(drawn, "circle", "cx", "cy", "r")
    dots = [mark for mark in found if mark[2] < 5]
    rings = [mark for mark in found if mark[2] > 5]
    assert [x for x, _, _ in dots] == sorted(x for x, _, _ in dots)
    assert dots[1][1] < dots[2][1] < dots[0][1]
    assert [ring[:2] for ring in rings] == [dots[1][:2]]


def test_nothing_is_drawn_of_nothing() -> None:
    """Law: without a value there is no drawing."""
    assert intervals([], "what") is None
    assert curve([], 0, "what") is None
