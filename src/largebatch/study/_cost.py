"""What a study will take, before it starts: gradients by count, hours by timing one pass of each kind of cell."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from largebatch import train
from largebatch.comparison import Cell, Study
from largebatch.core import data_size, has_batch_norm
from largebatch.recipe import Recipe
from largebatch.results import Column, Result, Table
from largebatch.study._looks import MAX_PRODUCTS, look_updates
from largebatch.study._plan import gradient_cost, plan_runs, total_updates
from largebatch.study._work import is_done

__all__ = ["CellCost", "StudyCost", "study_cost"]

SHARPNESS_PASSES = 25  # of one kind in one mode, about
PRODUCT_PASSES = 2.0


@dataclass(frozen=True)
class CellCost(Result):
    """One cell.

    Args:
        updates: of one run.
        gradient_cost: per-sample gradients of one run, in millions.
        run_seconds: of one run with all that is measured of it.
        done: runs that are there already.
    """

    name: str
    updates: int
    gradient_cost: float
    run_seconds: float
    done: int = 0


@dataclass(frozen=True)
class StudyCost(Result):
    """All cells; `hours` for what is left, with so many workers, on a machine that has a core for each."""

    name: str
    seeds: int
    workers: int
    cells: tuple[CellCost, ...]
    hours: float

    def text(self) -> str:
        """For a terminal."""
        columns = ["cell", Column("updates"), Column("gradients", "million"), Column("one run", "s", ".1f")]
        table = Table(columns, [[c.name, c.updates, c.gradient_cost, c.run_seconds] for c in self.cells]).text()
        runs, done = len(self.cells) * self.seeds, sum(cell.done for cell in self.cells)
        some = f", of which {done} are there; the others take" if done else ","
        there = ", all of which are there;" if done == runs else some
        return (
            f"{table}\n{self.name}: {len(self.cells)} cells × {self.seeds} seed(s) = {runs} runs{there} about "
            f"{self.hours:.2g} hours with {self.workers} worker(s), measurements included\n"
        )


def study_cost(
    study: Study, *, workers: int = 2, out: str | Path | None = None, runs: str | Path | None = None
) -> StudyCost:
    """Time one pass of each kind of cell, train nothing.

    Args:
        out, runs: as for `run_study`; what is there already costs nothing. Both None: nothing is there.

    Raises:
        ValueError: a cell that does not fit its task.
    """
    done: Counter[str] = Counter()
    if out is not None or runs is not None:
        plan = plan_runs(study, Path(out or "."), None if runs is None else Path(runs))
        done.update(run.cell.name for run in plan.planned if is_done(run.job))
    speeds: dict[tuple[object, ...], float] = {}
    cells = tuple(replace(_cell_cost(study, cell, speeds), done=done[cell.name]) for cell in study.cells)
    seconds = sum(cell.run_seconds * (len(study.seeds) - cell.done) for cell in cells)
    return StudyCost(study.name, len(study.seeds), workers, cells, seconds / workers / 3600)


def _cell_cost(study: Study, cell: Cell, speeds: dict[tuple[object, ...], float]) -> CellCost:
    subject, recipe, plan = study.subject_of(cell), cell.recipe, study.measures
    task = subject.load()
    size = data_size(task.train)
    key = (subject, recipe.global_batch_size, recipe.ghost_batch_size, recipe.optimizer)
    if key not in speeds:
        with _one_thread():
            found = train.preview(task, recipe)
        speeds[key] = found.expected_seconds / max(1, found.total_samples)
    looks = look_updates(recipe, size, plan)
    extra = len(looks) * min(size, plan.look_samples)
    extra += sum(looks.values()) * min(size, plan.curvature_samples) * MAX_PRODUCTS * PRODUCT_PASSES
    extra += _epochs(recipe, size) * data_size(task.held_out) / 3
    if "sharpness" in cell.measures:
        modes = 2 if has_batch_norm(train.build_model(task, study.seeds[0])) else 1
        extra += modes * len(plan.sharpness) * SHARPNESS_PASSES * min(size, plan.sharpness_samples)
    gradients = gradient_cost(recipe, size)
    seconds = (gradients * 1e6 + extra) * speeds[key]
    return CellCost(cell.name, total_updates(recipe, size), gradients, seconds)


@contextmanager
def _one_thread() -> Iterator[None]:
    """As a worker has it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _epochs(recipe: Recipe, size: int) -> float:
    return 1e6 * gradient_cost(recipe, size) / size
