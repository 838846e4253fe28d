"""Pictures of final weights: the line between two runs, the plane around one, the spectrum at one. Each is made once."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from largebatch import diagnose
from largebatch.comparison import Subject
from largebatch.core import Risk, Task
from largebatch.results import read_json, write_json

__all__ = ["PictureJob", "draw", "read_picture"]

LINE_POINTS = 25  # as Keskar et al. 2017, figure 3
PLANE_POINTS, PLANE_SPAN = 21, (-1.0, 1.0)
EIGENVALUES, PROBES, STEPS = 5, 2, 40

_turn = threading.Lock()


@dataclass(frozen=True)
class PictureJob:
    """One picture.

    Args:
        kind: "path" of two runs, "plane" or "spectrum" of one.
        folders: of the runs.
        samples: of the training data.
        file: where it is kept.
    """

    kind: Literal["path", "plane", "spectrum"]
    subject: Subject
    folders: tuple[str, ...]
    samples: int
    file: str
    threads: int | None = 1


def draw(job: PictureJob) -> str:
    """Measure it, unless it is there; returns "drawn", or "missing" where a run has not finished."""
    with _turn:
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        runs = [diagnose.read_run(folder) for folder in job.folders if (Path(folder) / "result.json").exists()]
        ended = [run for run in runs if run is not None and run.record.status == "finished"]
        if len(ended) < len(job.folders):
            return "missing"
        if read_picture(job) is None:
            found = _DRAW[job.kind](job.subject.load(), ended, job.samples)
            write_json(Path(job.file), {"digests": [run.record.digest for run in ended], job.kind: found.to_json()})
        return "drawn"


def read_picture(job: PictureJob) -> dict[str, Any] | None:
    """What was drawn, if it is of these very runs."""
    path = Path(job.file)
    held = read_json(path) if path.exists() else None
    digests = [Path(folder).name for folder in job.folders]
    return held[job.kind] if held is not None and held["digests"] == digests else None


def _path(task: Task, runs: Sequence[diagnose.StoredRun], samples: int) -> diagnose.Path:
    a, b = (run.model(task) for run in runs)
    start = runs[0].state(0) if 0 in runs[0].checkpoints() else None
    data = _risk(task, runs[0], samples).data
    return diagnose.path(
        a, b, loss=task.loss, train=data, test=task.test, metrics=task.metrics, points=LINE_POINTS, start=start
    )


def _plane(task: Task, runs: Sequence[diagnose.StoredRun], samples: int) -> diagnose.Plane:
    return diagnose.plane(_risk(task, runs[0], samples), spans=PLANE_SPAN, points=(PLANE_POINTS, PLANE_POINTS))


def _spectrum(task: Task, runs: Sequence[diagnose.StoredRun], samples: int) -> diagnose.Spectrum:
    risk = _risk(task, runs[0], samples)
    return diagnose.spectrum(risk, min(EIGENVALUES, risk.dimension - 1), tolerance=1e-2, probes=PROBES, steps=STEPS)


def _risk(task: Task, run: diagnose.StoredRun, samples: int) -> Risk:
    return Risk(run.model(task), task.loss, task.train).subset(samples)


_DRAW: dict[str, Any] = {"path": _path, "plane": _plane, "spectrum": _spectrum}
