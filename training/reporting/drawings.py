"""Small drawings inside a page, as SVG: a method's interval a line, and a curve by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from matplotlib.ticker import MaxNLocator

from training.reporting.elements import element

_WIDTH = 460.0
_NAMES = 150.0
"""Left of the axis, for the names of the methods."""
_ROW, _FOOT, _EDGE = 22.0, 26.0, 12.0
_CURVE_HEIGHT = 150.0
_INK, _PALE, _MARK = "#333333", "#DDDDDD", "#0072B2"


@dataclass(frozen=True)
class Estimate:
    """A value with its interval.

    Args:
        name: of what it is a value.
        value: itself.
        low, high: ends of the interval; the value itself where there is none.
    """

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Axis:
    """A straight scale.

    Args:
        low, high: the values at its ends; low < high.
        start, end: where they lie, in pixels.
    """

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> Axis:
        """The scale that holds all values, with a margin, from pixel to pixel."""
        low, high = min(values), max(values)
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        return cls(low - margin, high + margin, start, end)

    def at(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values on it, three to five."""
        found = MaxNLocator(nbins=4).tick_values(self.low, self.high)
        return [float(value) for value in found if self.low <= value <= self.high]


def intervals(estimates: Sequence[Estimate], says: str) -> Element | None:
    """Draw each value with its interval on a line of its own; None where there is nothing to draw.

    Args:
        estimates: from the top down.
        says: what it shows, for those who do not see it.
    """
    if not estimates:
        return None
    height = _ROW * len(estimates) + _FOOT
    ends = [end for each in estimates for end in (each.value, each.low, each.high)]
    axis = Axis.over(ends, _NAMES, _WIDTH - _EDGE)
    drawn = _canvas(height, says)
    drawn.extend(_grid_down(axis, height - _FOOT))
    for place, each in enumerate(estimates):
        y = _ROW * (place + 0.5)
        drawn.append(_text(_NAMES - 10, y + 4, each.name, "end"))
        drawn.append(_line(axis.at(each.low), y, axis.at(each.high), y, _MARK, 2.0))
        drawn.append(_dot(axis.at(each.value), y, 4.0, _MARK))
    return drawn


def curve(points: Sequence[tuple[int, float]], kept: int, says: str) -> Element | None:
    """Draw a value by epoch, with a ring around the epoch that was kept; None where there is nothing to draw.

    Args:
        points: (epoch, value), by epoch.
        kept: the epoch.
        says: what it shows, for those who do not see it.
    """
    if not points:
        return None
    across = Axis.over([epoch for epoch, _ in points], 60.0, _WIDTH - _EDGE)
    up = Axis.over([value for _, value in points], _CURVE_HEIGHT - _FOOT, _EDGE)
    drawn = _canvas(_CURVE_HEIGHT, says)
    for value in up.ticks():
        drawn.append(_line(60.0, up.at(value), _WIDTH - _EDGE, up.at(value), _PALE, 1.0))
        drawn.append(_text(54.0, up.at(value) + 4, f"{value:.6g}", "end"))
    for epoch in (value for value in across.ticks() if value.is_integer()):
        drawn.append(_text(across.at(epoch), _CURVE_HEIGHT - 8, f"{epoch:.0f}", "middle"))
    path = " ".join(f"{across.at(epoch):.1f},{up.at(value):.1f}" for epoch, value in points)
    drawn.append(element("polyline", points=path, fill="none", stroke=_MARK, stroke_width="2"))
    for epoch, value in points:
        drawn.append(_dot(across.at(epoch), up.at(value), 3.0, _MARK))
        if epoch == kept:
            ring = _dot(across.at(epoch), up.at(value), 7.0, "none")
            ring.set("stroke", _MARK)
            drawn.append(ring)
    return drawn


def _canvas(height: float, says: str) -> Element:
    return element(
        "svg",
        element("title", says),
        viewBox=f"0 0 {_WIDTH:.0f} {height:.0f}",
        width=f"{_WIDTH:.0f}",
        height=f"{height:.0f}",
        role="img",
    )


def _grid_down(axis: Axis, height: float) -> list[Element]:
    found = []
    for value in axis.ticks():
        found.append(_line(axis.at(value), 0.0, axis.at(value), height, _PALE, 1.0))
        found.append(_text(axis.at(value), height + 16, f"{value:.6g}", "middle"))
    return found


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> Element:
    ends = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    return element("line", stroke=colour, stroke_width=f"{width:g}", **ends)


def _dot(x: float, y: float, radius: float, colour: str) -> Element:
    return element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{radius:g}", fill=colour)


def _text(x: float, y: float, text: str, anchor: str) -> Element:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, fill=_INK)
