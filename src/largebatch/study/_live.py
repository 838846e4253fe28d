"""The live table: how far each cell is and what it shows so far, drawn over itself, with the time left below it.

On stderr, where that is a terminal; silent elsewhere. The time left counts per-sample gradients, so it is right only as far
as cells differ in nothing else.
"""

import sys
from collections.abc import Sequence
from typing import Any, Self, final

from tqdm import tqdm

from largebatch.comparison import StudyResult
from largebatch.core import data_size
from largebatch.results import Column, Table
from largebatch.study._pictures import PictureJob
from largebatch.study._plan import RunPlan, gradient_cost
from largebatch.study._work import RunJob, StackJob

__all__ = ["Job", "LiveTable", "runs_of"]

NAME_WIDTH = 48

Job = RunJob | StackJob | PictureJob


@final
class LiveTable:
    """See the file's head; `with` it."""

    def __init__(self, plan: RunPlan, *, enabled: bool):
        self._plan = plan
        self._enabled = enabled and sys.stderr.isatty()
        self._bar: tqdm[Any] | None = None
        self._lines = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def begin(self, jobs: Sequence[Job]) -> None:
        """The bar, over what is still to be done."""
        self._bar = tqdm(
            total=sum(map(_cost, jobs)), unit=" million gradients", desc=self._plan.study.name, file=sys.stderr,
            disable=not self._enabled, delay=2.0, leave=False,
            bar_format="{desc} {percentage:3.0f} %|{bar}| {remaining} left",
        )  # fmt: skip

    def ended(self, job: Job) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(_cost(job))

    def show(self, tables: StudyResult) -> None:
        """Draw the table over the last one."""
        if not self._enabled or self._bar is None:
            return
        rows = [
            [cell.name[:NAME_WIDTH], f"{cell.finished}/{len(tables.seeds)}", cell.estimates.get("test_accuracy"),
             cell.estimates.get("train_loss")]
            for cell in tables.cells
        ]  # fmt: skip
        lines = Table(["cell", "ended", Column("test accuracy", "%"), "train loss"], rows).text().splitlines()
        self._bar.clear()
        sys.stderr.write(f"\x1b[{self._lines}A\x1b[J" if self._lines else "")
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        self._lines = len(lines)
        self._bar.refresh()


def runs_of(job: Job) -> tuple[RunJob, ...]:
    """The runs that a job makes; none for a picture."""
    return job.runs if isinstance(job, StackJob) else (job,) if isinstance(job, RunJob) else ()


def _cost(job: Job) -> float:
    """Per-sample gradients, in millions."""
    return sum(gradient_cost(run.recipe, data_size(run.subject.load().train)) for run in runs_of(job))
