"""From run folders to tables: reads what workers left, and nothing but that."""

import os
import platform
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, final

import torch

import largebatch
from largebatch import diagnose
from largebatch.comparison import (
    Cell,
    CellRow,
    LookRow,
    MeasureRow,
    PathRow,
    PlaneRow,
    RunRow,
    SpectrumRow,
    StudyResult,
    judge,
)
from largebatch.core import data_size
from largebatch.recipe import Timeline
from largebatch.results import RunFolder
from largebatch.study._pictures import PictureJob, read_picture
from largebatch.study._plan import PlannedRun, RunPlan, gradient_cost, total_updates
from largebatch.study._stacked_run import STACKED
from largebatch.study._work import FILE, measurement_names

__all__ = ["Collector"]

MOMENTS = {"train_loss at a quarter": 0.25, "train_loss at half": 0.5, "train_loss at three quarters": 0.75}


@final
class Collector:
    """The tables of a plan's runs; each folder is read once more only while it is unfinished."""

    def __init__(self, plan: RunPlan, command: str):
        self._plan, self._command = plan, command
        self._held: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        self._pictures: dict[str, dict[str, Any]] = {}
        self._asked = _asked(plan)

    def collect(self, failures: Mapping[str, str]) -> StudyResult:
        """All tables, judged.

        Args:
            failures: digest → why the run could not be made.
        """
        plan, study = self._plan, self._plan.study
        found = {run.digest: self._read(run) for run in plan.planned}
        runs, measures, looks = [], [], []
        for cell in study.cells:
            for seed in study.seeds:
                run = plan.run(cell.name, seed)
                runs.append(self._run_row(run, found[run.digest][0], failures))
                measures += _measure_rows(run, found[run.digest][1], self._asked[run.digest])
                looks += _look_rows(run, found[run.digest][1])
        pictures = self._picture_rows()
        complete = all(
            row.status == "diverged"
            or (row.status == "finished" and self._is_measured(row.digest, found[row.digest][1]))
            for row in runs
        )
        seconds = sum({row.digest: row.seconds for row in runs}.values()) + sum(row.seconds for row in measures)
        tables = StudyResult(
            name=study.name, question=study.question, task=study.subject.title, seeds=study.seeds, complete=complete,
            answer=(), cells=tuple(self._cell_row(cell) for cell in study.cells), contrasts=(), runs=tuple(runs),
            measurements=tuple(measures), looks=tuple(looks), **pictures, notes=study.notes, command=self._command,
            versions=versions(), seconds=seconds, references=study.references, published=study.published,
        )  # fmt: skip
        return judge(study, tables)

    def _read(self, run: PlannedRun) -> tuple[dict[str, Any], dict[str, Any]]:
        """(result with what its log adds, measurements) of a run; empty where it has not ended."""
        if run.digest in self._held:
            return self._held[run.digest]
        folder = RunFolder(Path(run.job.folder))
        result, measured = folder.read("result.json"), folder.read(FILE)
        if result is None:
            return {}, {}
        result["metrics"] = result["metrics"] | _from_log(folder.log(), result["samples"])
        found = (result, measured or {})
        if self._is_measured(run.digest, found[1]):
            self._held[run.digest] = found
        return found

    def _is_measured(self, digest: str, measured: Mapping[str, Any]) -> bool:
        return "measurements" in measured and self._asked[digest] <= measured["measurements"].keys()

    def _run_row(self, run: PlannedRun, result: dict[str, Any], failures: Mapping[str, str]) -> RunRow:
        if not result:
            reason = failures.get(run.digest, "")
            return RunRow(run.cell.name, run.seed, run.digest, "failed" if reason else "missing", reason)
        folder = os.path.relpath(run.job.folder, self._plan.out)
        return RunRow(
            run.cell.name, run.seed, run.digest, result["status"], result["reason"], result["updates"], result["samples"],
            result["seconds"], STACKED in result["notes"], result["metrics"], folder,
        )  # fmt: skip

    def _cell_row(self, cell: Cell) -> CellRow:
        recipe, subject = cell.recipe, self._plan.study.subject_of(cell)
        size = data_size(subject.load().train)
        last = recipe
        while last.then is not None:
            last = last.then.recipe
        return CellRow(
            name=cell.name, about=cell.about, task=subject.title, group=cell.group, reference=cell.reference,
            global_batch_size=last.global_batch_size, optimizer=recipe.optimizer, lr=recipe.lr, warmup=str(recipe.warmup),
            ghost_batch_size=recipe.ghost_batch_size, updates=total_updates(recipe, size),
            samples=Timeline(recipe, size).total_samples, gradient_cost=gradient_cost(recipe, size), recipe=recipe.to_json(),
            published=cell.published,
        )  # fmt: skip

    def _picture_rows(self) -> dict[str, Any]:
        plan, seed = self._plan, self._plan.study.seeds[0]
        cell_of = {run.job.folder: run.cell.name for run in plan.planned if run.seed == seed}
        paths, planes, spectra = [], [], []
        for job in plan.pictures():
            held = self._picture(job)
            if held is None:
                continue
            names = [cell_of[folder] for folder in job.folders]
            if job.kind == "path":
                paths.append(PathRow(names[0], names[1], seed, diagnose.Path.from_json(held)))
            elif job.kind == "plane":
                planes.append(PlaneRow(names[0], seed, diagnose.Plane.from_json(held)))
            else:
                spectra.append(SpectrumRow(names[0], seed, diagnose.Spectrum.from_json(held)))
        return {"paths": tuple(paths), "planes": tuple(planes), "spectra": tuple(spectra)}

    def _picture(self, job: PictureJob) -> dict[str, Any] | None:
        if job.file not in self._pictures:
            held = read_picture(job)
            if held is None:
                return None
            self._pictures[job.file] = held
        return self._pictures[job.file]


def versions() -> dict[str, str]:
    """Of what computes here."""
    return {
        "largebatch": largebatch.__version__, "torch": torch.__version__, "python": platform.python_version(),
        "platform": platform.platform(),
    }  # fmt: skip


def _asked(plan: RunPlan) -> dict[str, set[str]]:
    """Digest → what any of this study's cells has measured of the run; another study may have had more."""
    names: dict[object, list[str]] = {}
    asked: dict[str, set[str]] = {}
    for run in plan.planned:
        kind = (run.job.subject, run.job.measures)
        if kind not in names:
            names[kind] = measurement_names(run.job)
        asked.setdefault(run.digest, set()).update(names[kind])
    return asked


def _measure_rows(run: PlannedRun, held: dict[str, Any], asked: set[str]) -> list[MeasureRow]:
    rows = [row for name, row in held.get("measurements", {}).items() if name in asked]
    return [MeasureRow(cell=run.cell.name, seed=run.seed, digest=run.digest, **row) for row in rows]


def _look_rows(run: PlannedRun, held: dict[str, Any]) -> list[LookRow]:
    return [LookRow(cell=run.cell.name, seed=run.seed, **row) for row in held.get("looks", [])]


def _from_log(rows: list[dict[str, Any]], samples: int) -> dict[str, float]:
    """Distance and path length at the last logged update, and the train loss at some moments of the run."""
    updates = [row for row in rows if row["kind"] == "update"]
    found = {name: float(updates[-1][name]) for name in ("distance", "path_length")} if updates else {}
    curve = [(row["samples"], row["train_loss"]) for row in rows if row["kind"] == "epoch"]
    for name, share in MOMENTS.items():
        value = _between(curve, share * samples)
        if value is not None:
            found[name] = value
    return found


def _between(curve: list[tuple[float, float]], at: float) -> float | None:
    """By linear interpolation; None outside."""
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 <= at <= x1:
            return y0 + (y1 - y0) * (at - x0) / (x1 - x0)
    return None
