"""What a worker does: train one run, and measure its end. Everything it finds is in the run's folder when it returns.

A job is plain data, found again by name on any machine; the folder must be one that all of them see. A job that was
interrupted is given again as it was, and does only what is missing.
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from largebatch import diagnose, train
from largebatch.comparison import Measures, Subject
from largebatch.core import Risk, Task, data_size, has_batch_norm, latest_checkpoint, prune_checkpoints
from largebatch.recipe import Recipe
from largebatch.results import RunFolder
from largebatch.study._looks import Looks, look_updates
from largebatch.study._stacked_run import train_stack

__all__ = ["FILE", "RunJob", "StackJob", "is_done", "measurement_names", "perform"]

FILE = "measurements.json"
CHECKPOINTS = "0.1dur"
STACKED_SAMPLES = 2560  # of all networks in one update: five of batch 512 take half as long as one by one
REPEATS = 3  # draws of the linear rule
_turn = threading.Lock()  # torch's random generator and thread count belong to the process: its threads take turns


@dataclass(frozen=True)
class RunJob:
    """One run and what is measured of it.

    Args:
        folder: where the run is kept.
        measures: "sharpness", "linear rule".
        threads: of torch; None leaves them as they are.
    """

    subject: Subject
    recipe: Recipe
    seed: int
    folder: str
    plan: Measures
    measures: tuple[str, ...] = ()
    threads: int | None = 1


@dataclass(frozen=True)
class StackJob:
    """Runs of one cell that are trained together, each with what is measured of it."""

    runs: tuple[RunJob, ...]


def perform(job: RunJob | StackJob) -> str:
    """Train and measure; returns the status.

    Raises:
        Exception: whatever the task's own code raises.
    """
    runs = job.runs if isinstance(job, StackJob) else (job,)
    with _turn:
        if runs[0].threads is not None:
            torch.set_num_threads(runs[0].threads)
        _check_identity(runs[0])
        if isinstance(job, StackJob):
            _train_together(job)
        return ", ".join(map(_perform, runs))


def _check_identity(job: RunJob) -> None:
    """A worker that began before, or after, the task's file was changed has another task than the plan."""
    task = job.subject.load()
    model, _ = train.prepare(task, job.recipe, train.Execution(), seed=job.seed)
    found = train.identity(task, job.recipe, job.seed, model)
    if found != Path(job.folder).name:
        raise ValueError(
            f"{job.subject.label}: expected the task that the study was planned for, run {Path(job.folder).name}, got one "
            f"that makes it run {found}: its code or data changed since; start the study, and its workers, again"
        )


def _train_together(job: StackJob) -> None:
    """As many at once as is worth it."""
    task, recipe, plan = job.runs[0].subject.load(), job.runs[0].recipe, job.runs[0].plan
    most = max(1, STACKED_SAMPLES // recipe.global_batch_size)
    for first in range(0, len(job.runs), most):
        part = job.runs[first : first + most]
        looks = [looks_of(task, recipe, plan) for _ in part]
        train_stack(task, recipe, [run.seed for run in part], [run.folder for run in part], looks)


def _perform(job: RunJob) -> str:
    """Train, unless it has ended, and measure what is missing."""
    task = job.subject.load()
    folder = RunFolder(Path(job.folder))
    looks = looks_of(task, job.recipe, job.plan)
    ended = folder.read("result.json")
    if ended is None:
        status = train.fit(
            task,
            job.recipe,
            seed=job.seed,
            out=job.folder,
            observers=[looks],
            checkpoint_every=CHECKPOINTS,
            progress=False,
        ).status
    else:
        status = ended["status"]
    if status != "stopped":
        measure(task, job, folder, looks.rows or _kept_looks(folder))
    return status


def measure(task: Task, job: RunJob, folder: RunFolder, looks: list[dict[str, Any]]) -> None:
    """What is missing in `measurements.json` of a run that has ended; `looks` are those of its training."""
    held = {"looks": looks, "measurements": {}} | (folder.read(FILE) or {})
    folder.write(FILE, held)
    missing = [name for name in measurement_names(job) if name not in held["measurements"]]
    if missing and (folder.read("result.json") or {})["status"] == "finished":
        stored = diagnose.read_run(job.folder)
        assert stored is not None
        for name in missing:
            held["measurements"][name] = _measured(task, job, stored, name)
            folder.write(FILE, held)
    prune_checkpoints(folder.checkpoints, keep_last=1, also=set())


def looks_of(task: Task, recipe: Recipe, plan: Measures) -> Looks:
    """The observer of a run; a study that shares the run finds the looks of the one that trained it."""
    size = data_size(task.train)
    batch = recipe.global_batch_size
    return Looks(
        look_updates(recipe, size, plan), chunk=min(batch, recipe.ghost_batch_size or batch), batch_size=batch,
        samples=plan.look_samples, curvature_samples=plan.curvature_samples, seed=0,
    )  # fmt: skip


def is_done(job: RunJob) -> bool:
    """Whether nothing is left to do: the run has ended and all of it is measured."""
    folder = RunFolder(Path(job.folder))
    result, held = folder.read("result.json"), folder.read(FILE)
    if result is None or held is None:
        return False
    return result["status"] == "diverged" or all(name in held["measurements"] for name in measurement_names(job))


def measurement_names(job: RunJob) -> list[str]:
    """What is to be in the run's measurements, by name, batch-norm mode and samples."""
    names: list[str] = []
    if "sharpness" in job.measures:
        normed = has_batch_norm(train.build_model(job.subject.load(), job.seed))
        modes = ("running", "batch") if normed else ("none",)
        samples = min(job.plan.sharpness_samples, data_size(job.subject.load().train))
        names += [f"{kind} {mode} {samples}" for mode in modes for kind in job.plan.sharpness]
    if "linear rule" in job.measures and job.plan.linear_rule_k > 1:
        names += [f"linear_rule {place} {job.plan.linear_rule_k}" for place in ("start", "end")]
    return names


def _kept_looks(folder: RunFolder) -> list[dict[str, Any]]:
    """Of a run that had ended before its worker was killed: in its last checkpoint."""
    newest, _ = latest_checkpoint(folder.checkpoints)
    observers = {} if newest is None else newest.training_state()["observers"]
    return observers.get(Looks.name, {}).get("rows", [])


def _measured(task: Task, job: RunJob, stored: diagnose.StoredRun, name: str) -> dict[str, Any]:
    kind, what, _ = name.split()
    return _linear_rule(task, job, stored, what) if kind == "linear_rule" else _sharpness(task, job, stored, kind, what)


def _sharpness(task: Task, job: RunJob, stored: diagnose.StoredRun, kind: str, mode: str) -> dict[str, Any]:
    samples = min(job.plan.sharpness_samples, data_size(task.train))
    batch_norm = "batch" if mode == "batch" else "running"
    risk = Risk(stored.model(task), task.loss, task.train, batch_norm=batch_norm, batch_size=samples)
    found = diagnose.sharpness(risk.subset(samples), kind)
    return {
        "name": kind, "value": found.value, "stderr": found.stderr, "batch_norm": found.batch_norm, "samples": samples,
        "seconds": found.seconds, "unchanged_by": found.unchanged_by, "note": found.note,
    }  # fmt: skip


def _linear_rule(task: Task, job: RunJob, stored: diagnose.StoredRun, place: str) -> dict[str, Any]:
    recipe = job.recipe
    model = stored.model(task, 0 if place == "start" else None)
    found = diagnose.linear_rule(
        model, task.loss, task.train, batch_size=recipe.global_batch_size, k=job.plan.linear_rule_k, lr=recipe.lr,
        repeats=REPEATS,
    )  # fmt: skip
    return {
        "name": f"linear_rule at the {place}", "value": found.ratio.value, "stderr": found.ratio.stderr,
        "batch_norm": found.batch_norm, "samples": found.samples, "seconds": found.seconds, "unchanged_by": "",
        "note": f"k = {found.k}",
    }  # fmt: skip
