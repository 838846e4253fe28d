"""The plan of a study: its design with the identity of every run, where each is kept, and the jobs that make it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from largebatch import train
from largebatch.comparison import Cell, Study, Subject
from largebatch.core import data_size
from largebatch.recipe import Recipe, Timeline
from largebatch.study._pictures import PictureJob
from largebatch.study._work import RunJob

__all__ = ["PlannedRun", "RunPlan", "gradient_cost", "plan_runs", "total_updates"]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study, by its identity."""

    cell: Cell
    seed: int
    digest: str
    job: RunJob


@dataclass(frozen=True)
class RunPlan:
    """All runs, in the order in which they are given out: the i-th seed of a cell waits as if it cost i times as much.

    So cheap cells have several seeds before dear ones have their first, and what is there early can be compared. Of equal
    ones those of more updates come first: they take longer, and a long one at the end leaves the other workers idle.
    Seeds of a cell that are trained as one go together, at the place of the first.
    """

    study: Study
    out: Path
    runs: Path
    planned: tuple[PlannedRun, ...]

    def run(self, cell: str, seed: int) -> PlannedRun:
        """The run of a cell and a seed."""
        return next(run for run in self.planned if (run.cell.name, run.seed) == (cell, seed))

    def pictures(self) -> list[PictureJob]:
        """Those of the first seed that the study asks for."""
        plan, seed = self.study.measures, self.study.seeds[0]
        jobs: list[PictureJob] = []

        def add(kind: Literal["path", "plane", "spectrum"], *cells: str) -> None:
            runs = [self.run(name, seed) for name in cells]
            name = "-".join(run.digest for run in runs)
            file = self.out / {"path": "paths", "plane": "planes", "spectrum": "spectra"}[kind] / f"{name}.json"
            subject = runs[0].job.subject
            folders = tuple(run.job.folder for run in runs)
            jobs.append(PictureJob(kind, subject, folders, plan.sharpness_samples, str(file), runs[0].job.threads))

        for pair in plan.paths:
            add("path", *pair)
        for name in plan.planes:
            add("plane", name)
        for name in plan.spectra:
            add("spectrum", name)
        return jobs


def plan_runs(study: Study, out: Path, runs: Path | None = None, *, threads: int | None = 1) -> RunPlan:
    """Every run with its digest.

    Args:
        out: the folder of the study.
        runs: where run folders are; None: in `out`. Studies that name the same share their runs.
        threads: of each run.

    Raises:
        ValueError: a recipe that does not fit its task; names the cell.
    """
    where = (out / "runs" if runs is None else runs).resolve()
    planned: list[PlannedRun] = []
    data: dict[Subject, dict[str, str | None]] = {}
    for cell in study.cells:
        subject = study.subject_of(cell).located()
        task = subject.load()
        for seed in study.seeds:
            try:
                model, _ = train.prepare(task, cell.recipe, train.Execution(), seed=seed)
            except ValueError as error:
                raise ValueError(f"cell {cell.name!r}: {error}") from error
            if subject not in data:
                data[subject] = train.data_digests(task)
            digest = train.identity(task, cell.recipe, seed, model, data=data[subject])
            job = RunJob(subject, cell.recipe, seed, str(where / digest), study.measures, cell.measures, threads)
            planned.append(PlannedRun(cell, seed, digest, job))
    sizes = {cell.name: data_size(study.subject_of(cell).load().train) for cell in study.cells}

    def turn(run: PlannedRun) -> tuple[float, int]:
        recipe, size = run.cell.recipe, sizes[run.cell.name]
        return (1 + study.seeds.index(run.seed)) * gradient_cost(recipe, size), -total_updates(recipe, size)

    return RunPlan(study, out, where, tuple(sorted(planned, key=turn)))


def gradient_cost(recipe: Recipe, train_size: int) -> float:
    """Per-sample gradients of one run, in millions, over all phases; SAM takes two for a sample."""
    passes = 2 if recipe.sam_rho > 0 else recipe.proximal_steps if recipe.proximal_strength > 0 else 1
    later = gradient_cost(recipe.then.recipe, train_size) if recipe.then else 0.0
    return passes * Timeline(recipe, train_size).total_samples / 1e6 + later


def total_updates(recipe: Recipe, train_size: int) -> int:
    """Over all phases."""
    later = total_updates(recipe.then.recipe, train_size) if recipe.then else 0
    return Timeline(recipe, train_size).total_updates + later
