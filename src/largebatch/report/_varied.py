"""One number of each cell against what was varied: the batch, or the moment of a switch; and two numbers of each run.

Accuracy and sharpness against the batch, as figure 4 of Keskar et al. 2017 (arXiv 1609.04836), and against the epochs
trained with the small batch before a switch, as their figure 5; the controls stand at both ends: no epochs, and all.
"""

import math
from collections.abc import Mapping, Sequence

from largebatch.comparison import CellRow, StudyResult, measure_name
from largebatch.recipe import Duration
from largebatch.report._figure import Axis, Figure, Series, View, spans_decades
from largebatch.report._figures import measured
from largebatch.results import FEWEST_SEEDS, Estimate

__all__ = ["batch_figures", "switch_figures"]

OVER = "One point for each cell: the mean over finished seeds with its 95 % t-interval. "
MODES = "Statistics are those of batch norm."
FEWEST_SWITCHES = 2


def batch_figures(study: StudyResult) -> list[Figure]:
    """Accuracy, and each measure of sharpness, against the batch; and accuracy against sharpness."""
    metric, words = _outcome(study)
    name = words.removesuffix(", %").capitalize()
    apart = f"{OVER}Cells of one batch are drawn side by side. "
    sizes = {cell.name: float(cell.global_batch_size) for cell in study.cells}
    axis = Axis("global batch size, samples", log=True, ticks=sorted(set(sizes.values())))
    both = [view for key in measured(study) if (view := _each_run(study, key, metric, words))]
    made = [
        Figure("accuracy-batch", f"{name} against batch", apart, _views(study, [metric], sizes, axis)),
        Figure(
            "sharpness-batch", "Sharpness against batch", apart + MODES, _views(study, measured(study), sizes, axis)
        ),
        Figure("accuracy-sharpness", f"{name} against sharpness", "One point for each run.", both),
    ]
    return [figure for figure in made if figure.views]


def switch_figures(study: StudyResult) -> list[Figure]:
    """Accuracy and sharpness against the epochs with the first batch; [] where no two cells switch."""
    switching = [cell for cell in study.cells if cell.recipe.get("then")]
    if len(switching) < FEWEST_SWITCHES:
        return []
    metric, words = _outcome(study)
    first = switching[0].global_batch_size
    epochs = {cell.name: at for cell in study.cells if (at := _switch(cell, first)) is not None}
    axis = Axis(f"epochs with batch {first} before the switch")
    name = words.removesuffix(", %").capitalize()
    made = [
        Figure("accuracy-switch", f"{name} against the switch", OVER, _views(study, [metric], epochs, axis)),
        Figure("sharpness-switch", "Sharpness against the switch", OVER + MODES,
               _views(study, measured(study), epochs, axis)),
    ]  # fmt: skip
    return [figure for figure in made if figure.views]


def _switch(cell: CellRow, first: int) -> float | None:
    """Epochs with the first batch: none for another batch, all where nothing is switched; None if not told in epochs."""
    duration = Duration.parse(cell.recipe.get("duration", "0ep"))
    if duration.unit != "ep":
        return None
    return duration.value if cell.global_batch_size == first else 0.0


def _outcome(study: StudyResult) -> tuple[str, str]:
    has_accuracy = any("test_accuracy" in cell.estimates for cell in study.cells)
    return ("test_accuracy", "test accuracy, %") if has_accuracy else ("test_loss", "test loss")


def _views(study: StudyResult, keys: Sequence[str], at: Mapping[str, float], axis: Axis) -> list[View]:
    """One for each number that any cell has; those at one place are drawn side by side."""
    views: list[View] = []
    for key in keys:
        told = [(cell.name, cell.estimates[key]) for cell in study.cells if key in cell.estimates and cell.name in at]
        words = {"test_accuracy": "test accuracy, %", "test_loss": "test loss"}.get(key, measure_name(key))
        log = key != "test_accuracy" and spans_decades([estimate.value for _, estimate in told])
        series = [_point(name, at[name], estimate) for name, estimate in told]
        views += [View(words, axis, Axis(words, log), series, spread=axis.log)] if series else []
    return views


def _point(cell: str, x: float, estimate: Estimate) -> Series:
    ends = ([estimate.low], [estimate.high]) if estimate.n >= FEWEST_SEEDS else ((), ())
    return Series(cell, [x], [estimate.value], *ends, cell=cell, points=True)


def _each_run(study: StudyResult, key: str, metric: str, words: str) -> View | None:
    """One point for each run that was measured."""
    factor = 100.0 if metric == "test_accuracy" else 1.0
    ends = {(run.cell, run.seed): run.metrics.get(metric, math.nan) for run in study.runs if run.status == "finished"}
    points: dict[str, list[tuple[float, float]]] = {}
    for row in study.measurements:
        y = factor * ends.get((row.cell, row.seed), math.nan)
        if row.key == key and math.isfinite(row.value) and math.isfinite(y):
            points.setdefault(row.cell, []).append((row.value, y))
    series = [Series(cell, *zip(*pairs, strict=True), cell=cell, points=True) for cell, pairs in points.items()]
    log = spans_decades([x for pairs in points.values() for x, _ in pairs])
    return View(measure_name(key), Axis(measure_name(key), log), Axis(words), series) if series else None
