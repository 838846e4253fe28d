"""A figure as data: axes and series, before anyone draws them. The page's script turns them into Plotly's traces.

One description serves three readers: the plot, its data table, and its CSV, so that they cannot differ. Numbers stand in
`Columns`, each list once, however many views share it: the epochs of a run are the abscissa of all its curves.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final

__all__ = ["Axis", "Columns", "Figure", "Rule", "Series", "Surface", "View", "spans_decades"]

LISTS = ("x", "y", "low", "high")  # of a series
DIGITS = 7  # of float32, in which losses are logged
DECADES_ASK_FOR_LOG = 30.0  # our choice: largest ÷ smallest from which an axis is logarithmic

Numbers = Sequence[float]


@dataclass(frozen=True)
class Axis:
    """An axis.

    Args:
        title: with its unit.
        log: base 10.
        ticks: where to put them; empty: where Plotly does.
    """

    title: str
    log: bool = False
    ticks: Numbers = ()


@dataclass(frozen=True)
class Series:
    """Points (x, y) with their intervals.

    Args:
        name: as the legend and the table have it.
        x, y: (n,); what is not finite leaves a hole.
        low, high: (n,) the interval of each y; a band around a line, error bars on points.
        cell: by which it is coloured and chosen; "" for a series that stands for itself and is always shown.
        seed: by which it is chosen; None where it is over seeds.
        points: markers and no line.
        dashed: to tell two lines of one cell apart.
        one_run: thin, and shown only where single runs are asked for.
        legend: what the legend says; "": the cell, or the name where there is none.
    """

    name: str
    x: Numbers
    y: Numbers
    low: Numbers = ()
    high: Numbers = ()
    cell: str = ""
    seed: int | None = None
    points: bool = False
    dashed: bool = False
    one_run: bool = False
    legend: str = ""


@dataclass(frozen=True)
class Surface:
    """Values over a plane.

    Args:
        x: (n,); y: (m,).
        z: m rows of n, as a picture has them: the first row is at y[0].
        limits: of the colours, shared by all planes that are to be compared; the colours are logarithmic.
        title: of what the colours stand for, with its unit.
    """

    x: Numbers
    y: Numbers
    z: Sequence[Numbers]
    limits: tuple[float, float]
    title: str


@dataclass(frozen=True)
class Rule:
    """A straight line that the eye needs, such as the edge of stability.

    Args:
        axis: "x" or "y".
        at: where on it.
        text: beside it.
    """

    axis: Literal["x", "y"]
    at: float
    text: str


@dataclass(frozen=True)
class View:
    """One plot.

    Args:
        name: what is shown, and `by` against what: the reader chooses each.
        spread: points of equal x are moved apart a little, so that their error bars can be seen.
        square: one unit is as long on both axes.
    """

    name: str
    x: Axis
    y: Axis
    series: Sequence[Series] = ()
    surface: Surface | None = None
    rules: Sequence[Rule] = ()
    by: str = ""
    spread: bool = False
    square: bool = False


@dataclass(frozen=True)
class Figure:
    """A plot that the reader may turn to one of its views.

    Args:
        key: its name in links and files.
        title: what it shows.
        caption: how to read it, and what its bars and bands are.
    """

    key: str
    title: str
    caption: str
    views: Sequence[View]


@final
@dataclass
class Columns:
    """The lists of numbers of a page, each once. None stands for what is not finite, which JSON cannot hold."""

    lists: list[list[float | None]] = field(default_factory=list)
    _places: dict[tuple[float | None, ...], int] = field(default_factory=dict)

    def place(self, values: Numbers) -> int:
        """Where this list stands."""
        key = tuple(float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None for value in values)
        if key not in self._places:
            self._places[key] = len(self.lists)
            self.lists.append(list(key))
        return self._places[key]

    def encoded(self, figure: Figure) -> dict[str, Any]:
        """A figure as JSON data; lists of numbers are their places."""
        views = [self._view(view) for view in figure.views]
        return {"key": figure.key, "title": figure.title, "views": views}

    def _view(self, view: View) -> dict[str, Any]:
        return {
            "name": view.name,
            "by": view.by,
            "x": _axis(view.x),
            "y": _axis(view.y),
            "series": [self._series(series) for series in view.series],
            "surface": None if view.surface is None else self._surface(view.surface),
            "rules": [vars(rule) for rule in view.rules],
            "spread": view.spread,
            "square": view.square,
        }

    def _series(self, series: Series) -> dict[str, Any]:
        lists = {name: self.place(numbers) for name in LISTS if len(numbers := getattr(series, name))}
        rest = {name: value for name, value in vars(series).items() if name not in LISTS}
        return lists | {name: value for name, value in rest.items() if value not in (None, "") and value is not False}

    def _surface(self, surface: Surface) -> dict[str, Any]:
        rows = [self.place(row) for row in surface.z]
        place = self.place
        return {
            "x": place(surface.x),
            "y": place(surface.y),
            "z": rows,
            "limits": surface.limits,
            "title": surface.title,
        }


def spans_decades(values: Numbers) -> bool:
    """Whether an axis through these should be logarithmic: all positive, and far apart."""
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) / min(finite) > DECADES_ASK_FOR_LOG


def _axis(axis: Axis) -> dict[str, Any]:
    return {"title": axis.title, "log": axis.log, "ticks": list(axis.ticks)}
