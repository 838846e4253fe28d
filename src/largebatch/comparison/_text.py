"""A study for reading: its tables, and its answer with them for a terminal."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from largebatch.comparison._names import measure_name
from largebatch.results import FEWEST_SEEDS, Cell, Column, Estimate, Table

if TYPE_CHECKING:
    from largebatch.comparison._findings import CellRow, StudyResult

__all__ = ["cell_table", "published_of", "sharpness_table", "study_text"]

MOST_ACROSS = 12  # columns of a terminal's table


def cell_table(study: "StudyResult") -> Table:
    """One row for each cell; published figures beside ours where a paper has them."""
    has_accuracy = any("test_accuracy" in cell.estimates for cell in study.cells)
    metric = "test_accuracy" if has_accuracy else "test_loss"
    columns = ["cell", Column("batch"), Column("test accuracy", "%") if has_accuracy else "test loss", "published",
               Column("gap", "points" if has_accuracy else ""), "train loss", Column("updates"), "runs"]  # fmt: skip
    rows: list[list[Cell]] = [
        [cell.name, cell.global_batch_size, _plain(cell.estimates.get(metric)), published_of(cell, metric),
         _plain(cell.gap), _plain(cell.estimates.get("train_loss")), cell.updates, _counted(cell)]
        for cell in study.cells
    ]  # fmt: skip
    return _without_empty(columns, rows, "published")


def sharpness_table(study: "StudyResult", *, by_cell: bool) -> Table:
    """One row for each measure, one column for each cell that was measured, and one for its published figures.

    Args:
        by_cell: one row for each cell and no published figures.
    """
    keys = list(dict.fromkeys(row.key for row in study.measurements))
    cells = [cell for cell in study.cells if any(key in cell.estimates for key in keys)]
    if by_cell:
        found = [[cell.name, *(_plain(cell.estimates.get(key)) for key in keys)] for cell in cells]
        return Table(["cell", *map(measure_name, keys)], found)
    columns = ["measure", *(name for cell in cells for name in (cell.name, f"{cell.name}, published"))]
    rows: list[list[Cell]] = [
        [measure_name(key), *(v for cell in cells for v in (_plain(cell.estimates.get(key)), published_of(cell, key)))]
        for key in (keys if cells else ())
    ]
    return _without_empty(columns, rows, *columns[2::2])


def study_text(study: "StudyResult") -> str:
    """The answer, the tables, what was asked beforehand, and what a reader should know."""
    lines = [f"{study.task}: {study.question}", "", *study.answer, "", study.table().text()]
    sharpness = study.sharpness_table()
    sharpness = study.sharpness_table(by_cell=True) if len(sharpness.columns) > MOST_ACROSS else sharpness
    lines += ["", "at the end of runs, means over seeds:", sharpness.text()] if sharpness.rows else []
    primary = [row for row in study.contrasts if row.primary and row.sentence not in study.answer]
    lines += ["", "named beforehand (p corrected by Holm 1979):"] if primary else []
    lines += [f"  {row.sentence}" for row in primary]
    lines += ["", *(f"note: {note}" for note in study.notes)]
    lines += [f"published: {study.published}"] if study.published else []
    lost = [
        f"  {run.cell}, seed {run.seed}: {run.reason}" for run in study.runs if run.status in ("failed", "diverged")
    ]
    lines += ["runs that did not end well:", *lost] if lost else []
    return "\n".join(lines) + "\n"


def published_of(cell: "CellRow", metric: str) -> str | None:
    """A paper's figure of a metric, for reading; a figure without batch-norm statistics stands beside all of them."""
    names = (metric, metric.partition(" (")[0])
    return next((str(figure) for figure in cell.published if figure.metric in names), None)


def _without_empty(columns: Sequence[str | Column], rows: list[list[Cell]], *names: str) -> Table:
    """Without those of the columns that hold nothing."""
    kept = [
        i for i, column in enumerate(columns) if str(column) not in names or any(row[i] is not None for row in rows)
    ]
    return Table([columns[i] for i in kept], [[row[i] for i in kept] for row in rows])


def _plain(estimate: Estimate | None) -> Estimate | None:
    """Without its unit, which stands in the head of the column, and without an interval from two seeds."""
    if estimate is None or estimate.n >= FEWEST_SEEDS:
        return estimate and replace(estimate, unit="")
    return replace(estimate, unit="", low=math.nan, high=math.nan)


def _counted(cell: "CellRow") -> str:
    """How many ended how."""
    parts = [(cell.finished, ""), (cell.diverged, "diverged"), (cell.failed, "failed"), (cell.missing, "missing")]
    return ", ".join(f"{number} {name}".strip() for number, name in parts if number) or "0"
