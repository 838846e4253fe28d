"""Training curves: the logs of all runs, thinned, and their mean over seeds with its interval at each point.

Against epochs, as figures 2 and 3 of Goyal et al. 2017 (arXiv 1706.02677), and against updates, for cells that were given
as many (Hoffer et al. 2017, arXiv 1705.08741). The band is Student's t over the finished runs of a cell, one by one at
each point: it covers the mean there, not the whole curve at once.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from largebatch.comparison import StudyResult, curves
from largebatch.core import progress
from largebatch.report._figure import Axis, Figure, Series, View, spans_decades
from largebatch.results import FEWEST_SEEDS, student_quantile

__all__ = ["Curve", "over_seeds", "read_curves", "training_figures"]

MOST_POINTS = 120  # of one curve: a screen shows no more, and a page of 200 runs stays small

Row = Mapping[str, Any]
Point = tuple[float, float]

ABSCISSAS = ("epochs", "updates")
MOVING = {
    "distance": "distance from the start ‖x − x₀‖",
    "gradient_norm": "gradient norm of a batch",
    "path_length": "path length",
    "lr": "learning rate η",
}


@dataclass(frozen=True)
class Curve:
    """One run's log.

    Args:
        ended_well: diverged and failed runs have curves, but no part in a mean.
        epochs, updates: rows at ends of epochs and at logged updates; each has "at epochs" and "at updates", counted
            over all phases.
    """

    cell: str
    seed: int
    status: str
    epochs: tuple[Row, ...]
    updates: tuple[Row, ...]

    @property
    def ended_well(self) -> bool:
        """Whether it has a part in its cell's mean."""
        return self.status == "finished"


def read_curves(folder: Path, study: StudyResult) -> list[Curve]:
    """Of all runs that left a log."""
    found: list[Curve] = []
    with progress("reading logs", len(study.runs), "runs") as bar:
        for run in study.runs:
            rows = curves(folder, run)
            if rows:
                found.append(curve(run.cell, run.seed, run.status, rows))
            bar.update()
    return found


def curve(cell: str, seed: int, status: str, rows: Sequence[Row]) -> Curve:
    """One log, thinned."""
    placed = _placed(rows)
    kinds = [_thin([row for row in placed if row["kind"] == kind]) for kind in ("epoch", "update")]
    return Curve(cell, seed, status, kinds[0], kinds[1])


def training_figures(found: Sequence[Curve]) -> list[Figure]:
    """Train, held-out, and the way through weight space: each with its views, those that were logged."""
    names = sorted({name for one in found for row in one.epochs[-1:] for name in row})
    train, held = (
        {name: _words(name) for name in names if name.startswith(start)} for start in ("train_", "held_out_")
    )
    means = (
        "Lines are means over the finished seeds (geometric ones where the axis is logarithmic), bands their 95 % "
        "t-intervals, point by point; runs that diverged are dashed, each by itself. "
    )
    train = dict(sorted(train.items(), key=lambda item: item[0] != "train_loss"))
    figures = [
        _figure("train", "Training", f"{means}Over the samples of an epoch while training.", train, found),
        _figure("held-out", "Held-out data", f"{means}Measured at the end of each epoch.", held, found),
        _figure(
            "way", "The way through weight space", f"{means}At most {MOST_POINTS} updates are drawn.", MOVING, found
        ),
    ]
    return [figure for figure in figures if figure.views]


def over_seeds(by_seed: Iterable[Sequence[Point]], *, log: bool = False) -> tuple[list[float], ...]:
    """Where all seeds have a point: x, the mean of y, and both ends of its 95 % t-interval (NaN below 3 seeds).

    Args:
        log: of the logarithms, for an axis that shows these: a geometric mean, whose interval stays above 0.
    """
    tables = [dict(points) for points in by_seed]
    shared = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    values = np.array([[table[x] for table in tables] for x in shared]).reshape(len(shared), len(tables))
    values, n = np.log(values) if log else values, len(tables)
    mean = values.mean(axis=1) if n else np.empty(0)
    half = student_quantile(n - 1.0, 0.95) * values.std(axis=1, ddof=1) / n**0.5 if n >= FEWEST_SEEDS else mean * np.nan
    return shared, *((np.exp(v) if log else v).tolist() for v in (mean, mean - half, mean + half))


def _figure(key: str, title: str, caption: str, metrics: Mapping[str, str], found: Sequence[Curve]) -> Figure:
    views: list[View] = []
    for name, words in metrics.items():
        share = name.endswith("accuracy")
        by_run = {(one.cell, one.seed): _points(_rows(one, name), name, 100.0 if share else 1.0) for one in found}
        if not any(by_run.values()):
            continue
        values = [row[name] for one in found for row in _rows(one, name) if _is_number(row.get(name))]
        y = Axis(f"{words}, %" if share else words, not share and spans_decades(values))
        for by in ABSCISSAS:
            series = _series(found, {run: points[by] for run, points in by_run.items() if points}, log=y.log)
            ends = [max(one.x) for one in series]
            views.append(View(words, Axis(by, spans_decades(ends)), y, series, by=by))
    return Figure(key, title, caption, views)


def _rows(one: Curve, name: str) -> Sequence[Row]:
    """Those that hold it: what moves is logged at updates, what is averaged or evaluated at ends of epochs."""
    return one.updates if name in MOVING else one.epochs


def _series(found: Sequence[Curve], points: Mapping[tuple[str, int], Sequence[Point]], *, log: bool) -> list[Series]:
    """A mean for each cell, and its runs."""
    series: list[Series] = []
    for cell in dict.fromkeys(one.cell for one in found):
        runs = [one for one in found if one.cell == cell and points.get((cell, one.seed))]
        good = [points[cell, one.seed] for one in runs if one.ended_well]
        x, mean, low, high = over_seeds(good, log=log)
        if x:
            series.append(Series(cell, x, mean, low, high, cell=cell))
        for one in runs:
            name = f"{cell}, seed {one.seed}" + ("" if one.ended_well else f" ({one.status})")
            xs, ys = zip(*points[cell, one.seed], strict=True)
            series.append(
                Series(name, xs, ys, cell=cell, seed=one.seed, dashed=not one.ended_well, one_run=one.ended_well)
            )
    return series


def _points(rows: Sequence[Row], name: str, factor: float) -> dict[str, list[Point]]:
    """By abscissa; {} where the run has none of it."""
    told = [row for row in rows if _is_number(row.get(name))]
    return {by: [(row[f"at {by}"], factor * row[name]) for row in told] for by in ABSCISSAS} if told else {}


def _placed(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Each row with the epochs and updates done, over all phases: a log counts them anew in each."""
    placed: list[dict[str, Any]] = []
    before, last, phase = (0.0, 0), (0.0, 0), 0
    for row in rows:
        if row.get("phase", 0) != phase:
            before, phase = (before[0] + last[0], before[1] + last[1]), row["phase"]
        ends = row["kind"] == "epoch"
        last = (row["epoch"] + 1.0 if ends else row["epoch"], row["updates"] if ends else row["update"] + 1)
        placed.append({**row, "at epochs": before[0] + last[0], "at updates": before[1] + last[1]})
    return placed


def _thin(rows: Sequence[Row]) -> tuple[Row, ...]:
    """At most `MOST_POINTS`, with the first and the last: half of them at equal steps, half at equal ratios."""
    if len(rows) <= MOST_POINTS:
        return tuple(rows)
    half, last = MOST_POINTS // 2, len(rows) - 1
    shares = [i / (half - 1) for i in range(half)]
    return tuple(rows[i] for i in sorted({round(last * s) for s in shares} | {round(last**s) for s in shares}))


def _words(name: str) -> str:
    return name.replace("held_out", "held-out").replace("_", " ")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
