"""One chart on logarithmic axes as SVG: lines, points and bars of uncertainty, in a file that a browser shows as it is."""

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

__all__ = ["Chart", "Series"]

_WIDTH, _HEIGHT = 640, 420  # pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 20, 66, 55
_COLOURS = ("#1f5fa8", "#b8460e", "#3b7d23", "#7a3e9d", "#555555")


@dataclass(frozen=True)
class Series:
    """What belongs together in a chart.

    Args:
        name: in the legend; "" leaves it out there.
        points: (x, y), both above 0; others are left out.
        bars: (low, high) of y at each point.
        line, dots: whether points are joined, and shown.
        labels: beside each point; "" for none.
    """

    name: str
    points: Sequence[tuple[float, float]]
    bars: Sequence[tuple[float, float]] = ()
    line: bool = True
    dots: bool = True
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    """Series over two logarithmic axes.

    Args:
        title, x, y: texts.
        series: drawn in this order, each in a colour of its own.
        verticals: x at which a line is drawn, with its label.
    """

    title: str
    x: str
    y: str
    series: Sequence[Series]
    verticals: Sequence[tuple[float, str]] = field(default=())

    def svg(self) -> str:
        """The file.

        Raises:
            ValueError: no point can be shown.
        """
        shown = [point for series in self.series for point in series.points if _is_shown(point)]
        if not shown:
            raise ValueError("chart: expected points above 0 to draw on logarithmic axes, got none; give some")
        ends = [end for series in self.series for bar in series.bars for end in bar if 0 < end < math.inf]
        x = _axis([point[0] for point in shown] + [at for at, _ in self.verticals], _LEFT, _WIDTH - _RIGHT)
        y = _axis([point[1] for point in shown] + ends, _HEIGHT - _BOTTOM, _TOP)
        parts = [_text(_WIDTH / 2, 22, self.title, anchor="middle", size=15)]
        parts += [_line(x(v), _TOP, x(v), _HEIGHT - _BOTTOM, "#e4e4e4") + _below(x(v), v) for v in x.ticks]
        parts += [_line(_LEFT, y(v), _WIDTH - _RIGHT, y(v), "#e4e4e4") + _beside(y(v), v) for v in y.ticks]
        for at, label in self.verticals:
            parts.append(_line(x(at), _TOP, x(at), _HEIGHT - _BOTTOM, "#999", dashed=True))
            parts.append(_text(x(at) + 4, _TOP + 14, label, "#555"))
        legend = _LEFT
        for series, colour in zip(self.series, _COLOURS * len(self.series), strict=False):
            parts += _drawn(series, colour, x, y)
            if series.name:
                parts.append(f'<circle cx="{legend + 6}" cy="44" r="4" fill="{colour}"/>')
                parts.append(_text(legend + 15, 48, series.name, colour))
                legend += 26 + 7 * len(series.name)
        parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 12, self.x, anchor="middle"))
        parts.append(_text(18, (_TOP + _HEIGHT - _BOTTOM) / 2, self.y, anchor="middle", turned=True))
        inside = f'width="{_WIDTH - _LEFT - _RIGHT}" height="{_HEIGHT - _TOP - _BOTTOM}"'
        frame = f'<rect x="{_LEFT}" y="{_TOP}" {inside} fill="none" stroke="#444"/>'
        size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
        return "\n".join(
            [head, f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>', *parts, frame, "</svg>", ""]
        )


@dataclass(frozen=True)
class _Axis:
    """From a value to pixels."""

    low: float  # logarithms
    high: float
    first: float
    last: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.first + min(max(share, 0.0), 1.0) * (self.last - self.first)


def _axis(values: Sequence[float], first: float, last: float) -> _Axis:
    logs = [math.log10(value) for value in values if 0 < value < math.inf]
    margin = 0.06 * max(max(logs) - min(logs), 0.3)
    low, high = min(logs) - margin, max(logs) + margin
    digits = (1,) if high - low > 2.5 else (1, 2, 5) if high - low > 0.8 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    every = max(1, math.ceil((high - low) / 8))
    decades = [k for k in range(math.floor(low), math.ceil(high) + 1) if k % every == 0]
    ticks = [digit * 10.0**k for k in decades for digit in digits]
    return _Axis(low, high, first, last, tuple(v for v in ticks if low <= math.log10(v) <= high))


def _is_shown(point: tuple[float, float]) -> bool:
    return all(0 < value < math.inf for value in point)


def _drawn(series: Series, colour: str, x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    parts: list[str] = []
    places = [(x(u), y(v)) for u, v in filter(_is_shown, series.points)]
    if series.line:
        joined = " ".join(f"{u:.1f},{v:.1f}" for u, v in places)
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
    for (u, _), (low, high) in zip(series.points, series.bars, strict=False):
        if 0 < low <= high < math.inf:
            parts.append(_line(x(u), y(low), x(u), y(high), colour))
    if series.dots:
        parts += [f'<circle cx="{u:.1f}" cy="{v:.1f}" r="3.2" fill="{colour}"/>' for u, v in places]
    for (u, v), label in zip(places, series.labels, strict=False):
        parts.append(_text(u + 6, v - 5, label, colour, size=11))
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, dashed: bool = False) -> str:
    style = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{style}/>'


def _below(x: float, value: float) -> str:
    return _text(x, _HEIGHT - _BOTTOM + 17, f"{value:g}", anchor="middle")


def _beside(y: float, value: float) -> str:
    return _text(_LEFT - 7, y + 4, f"{value:g}", anchor="end")


def _text(
    x: float, y: float, text: str, colour: str = "#222", *, anchor: str = "start", size: int = 12, turned: bool = False
) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    style = f'fill="{colour}" text-anchor="{anchor}" font-size="{size}"{turn}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{html.escape(text)}</text>'
