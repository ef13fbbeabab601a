"""Curves on shared axes as inline SVG, with labels in HTML. Knows points and titles.

The drawing stretches with the window while lines and labels keep their size, and its colours follow the page's scheme.
A picture of matplotlib does neither.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Points = Sequence[tuple[float, float]]
SIDE = 1000
"""Units of the drawing's width and height."""
MOST_POINTS = 1200
"""Points of a line that are drawn."""


class Curve(NamedTuple):
    """`raw`: points behind the line, drawn faintly. `dots`: marks each point. `colour`: of the page, from 1."""

    title: str
    points: Points
    colour: int = 1
    raw: Points = ()
    dots: bool = False
    dashed: bool = False


class Mark(NamedTuple):
    """A vertical line at a step."""

    at: float
    title: str


class Axis(NamedTuple):
    low: float
    high: float

    def share(self, value: float) -> float:
        """Where a value is between both ends: 0 to 1 inside."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self, about: int) -> list[float]:
        """Round values for the ticks of an axis, about as many as asked for."""
        rough = (self.high - self.low) / about
        unit = 10 ** math.floor(math.log10(rough))
        step = unit * next(each for each in (1, 2, 2.5, 5, 10) if each * unit >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def chart(
    curves: Iterable[Curve],
    x: str = "step",
    y: str = "",
    marks: Sequence[Mark] = (),
    remark: str = "",
    small: bool = False,
) -> str:
    """A figure with a legend that has the last value of each curve. Empty where no point is finite.

    `x`, `y`: titles of the axes. `remark`: below the picture. `small`: half as high.
    """
    kept = [each._replace(points=_finite(each.points), raw=_finite(each.raw)) for each in curves]
    kept = [each for each in kept if each.points]
    if not kept:
        return ""
    across = _axis([at for each in kept for at, _ in (*each.points, *each.raw)], padding=0.012)
    up = _axis(_main_values(kept), padding=0.06)
    inside = [each for each in marks if across.low <= each.at <= across.high]
    drawn = "".join(
        [
            _grid(up),
            *(_line(each.raw, f"raw c{each.colour}", across, up) for each in kept if each.raw),
            *(f'<path class="mark" d="M{_x(each.at, across)} 0V{SIDE}"/>' for each in inside),
            *(
                _line(each.points, f"line c{each.colour}{' dashed' if each.dashed else ''}", across, up)
                for each in kept
            ),
            *(_dots(each, across, up, x) for each in kept if each.dots or len(each.points) == 1),
        ]
    )
    labels = [
        *(f'<span class="y" style="bottom:{100 * up.share(tick):.2f}%">{_label(tick)}</span>' for tick in up.ticks(4)),
        *(f'<span class="x" style="left:{100 * across.share(tick):.2f}%">{_label(tick)}</span>'
          for tick in _ticks(across, kept)),
        *(_mark_label(each, across) for each in inside),
    ]  # fmt: skip
    outside = sum(not up.low <= value <= up.high for each in kept for _, value in each.raw)
    if outside:
        values = "1 logged value lies" if outside == 1 else f"{outside:,} logged values lie"
        remark = f"{remark} {values} outside of the picture.".strip()
    below = f'<p class="note">{html.escape(remark)}</p>' if remark else ""
    described = html.escape("; ".join(f"{each.title}: {_ends(each.points)}" for each in kept))
    return (
        f'<figure class="chart{" small" if small else ""}"><figcaption>{_legend(kept)}'
        f'<span class="axes">{html.escape(f"{y} by {x}" if y else f"by {x}")}</span></figcaption>'
        f'<div class="plot"><svg viewBox="0 0 {SIDE} {SIDE}" preserveAspectRatio="none" role="img" '
        f'aria-label="{described}">{drawn}</svg>{"".join(labels)}</div>{below}</figure>'
    )


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(at, value) for at, value in points if math.isfinite(at) and math.isfinite(value)]


def _main_values(curves: Sequence[Curve]) -> list[float]:
    """The values that decide the height of the picture: not the single highest and lowest of raw points."""
    values = [value for each in curves for _, value in each.points]
    for each in curves:
        raw = sorted(value for _, value in each.raw)
        cut = len(raw) // 50
        values += raw[cut : len(raw) - cut]
    return values


def _axis(values: Sequence[float], padding: float) -> Axis:
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        more = abs(high) / 10 or 1.0
        return Axis(low - more, high + more)
    return Axis(low - padding * (high - low), high + padding * (high - low))


def _ticks(across: Axis, curves: Sequence[Curve]) -> list[float]:
    """Of the horizontal axis: whole numbers where all points are at whole numbers."""
    whole = all(float(at).is_integer() for each in curves for at, _ in each.points)
    return [tick for tick in across.ticks(5) if not whole or float(tick).is_integer()]


def _x(at: float, across: Axis) -> str:
    return f"{SIDE * across.share(at):.5g}"


def _y(value: float, up: Axis) -> str:
    share = min(max(up.share(value), -1.0), 2.0)  # far outside is outside
    return f"{SIDE * (1 - share):.5g}"


def _grid(up: Axis) -> str:
    return f'<path class="grid" d="{"".join(f"M0 {_y(tick, up)}H{SIDE}" for tick in up.ticks(4))}"/>'


def _line(points: Points, kind: str, across: Axis, up: Axis) -> str:
    places = " ".join(f"{_x(at, across)} {_y(value, up)}" for at, value in _thinned(points))
    return f'<path class="{kind}" d="M{places}"/>'


def _thinned(points: Points) -> Points:
    """At most MOST_POINTS: the least and the greatest of each stretch, so that no peak is lost."""
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(2 * len(points) / MOST_POINTS)
    found: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        found += sorted({min(part, key=lambda each: each[1]), max(part, key=lambda each: each[1])})
    return found


def _dots(curve: Curve, across: Axis, up: Axis, x: str) -> str:
    """Each point as a line without length, which stays round however the drawing is stretched."""
    return "".join(
        f'<path class="dot c{curve.colour}" d="M{_x(at, across)} {_y(value, up)}h0">'
        f"<title>{html.escape(f'{curve.title}, {x} {_label(at)}: {value:.4g}')}</title></path>"
        for at, value in _thinned(curve.points)
    )


def _label(value: float) -> str:
    if value and abs(value) < 1e-3:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def _mark_label(mark: Mark, across: Axis) -> str:
    share = across.share(mark.at)
    side = "right" if share > 0.5 else "left"
    place = f"left:{100 * share:.2f}%" if side == "left" else f"right:{100 * (1 - share):.2f}%"
    return f'<span class="marked {side}" style="{place}">{html.escape(mark.title)}</span>'


def _legend(curves: Sequence[Curve]) -> str:
    return "".join(
        f'<span class="key c{each.colour}{" dashed" if each.dashed else ""}"><i></i>{html.escape(each.title)} '
        f"<b>{each.points[-1][1]:.4g}</b></span>"
        for each in curves
    )


def _ends(points: Points) -> str:
    return f"from {points[0][1]:.4g} to {points[-1][1]:.4g}"
