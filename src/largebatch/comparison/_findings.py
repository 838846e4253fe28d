"""What a study found, as tables: `result.json` holds them all, and everything that is said follows from them.

study.json          the design              runs/<digest>/      run folders, and measurements.json in each
result.json         these tables            paths/ planes/ spectra/    pictures, kept so that none is made twice
"""

from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any

from largebatch.comparison._design import Published
from largebatch.comparison._text import cell_table, sharpness_table, study_text
from largebatch.diagnose import Path, Plane, Spectrum
from largebatch.results import Estimate, Result, RunFolder, Table

__all__ = [
    "CellRow",
    "ContrastRow",
    "LookRow",
    "MeasureRow",
    "PathRow",
    "PlaneRow",
    "RunRow",
    "SpectrumRow",
    "StudyResult",
    "curves",
    "read_study",
]


@dataclass(frozen=True)
class RunRow(Result):
    """One run.

    Args:
        status: "finished", "diverged", "failed" (it crashed or its worker was killed) or "missing" (not yet trained).
        reason: of anything but "finished".
        stacked: trained together with other seeds of its cell.
        metrics: as `train` tells them: test_accuracy, a share, test_loss, train_accuracy, train_loss.
        folder: of the run, relative to that of the study.
    """

    cell: str
    seed: int
    digest: str
    status: str
    reason: str = ""
    updates: int = 0
    samples: int = 0
    seconds: float = 0.0
    stacked: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    folder: str = ""


@dataclass(frozen=True)
class MeasureRow(Result):
    """One number measured at the end of a run; see `core.Measurement`."""

    cell: str
    seed: int
    digest: str
    name: str
    value: float
    stderr: float
    batch_norm: str
    samples: int
    seconds: float
    unchanged_by: str = ""
    note: str = ""

    @property
    def key(self) -> str:
        """Of its column: the statistics of batch norm are part of every number."""
        return f"{self.name} ({self.batch_norm})"


@dataclass(frozen=True)
class LookRow(Result):
    """What was seen of a run after one of its updates.

    Args:
        values: batch_cosine, noise_scale, gradient_norm, step_cosine with step_samples, lambda_max, sharpness_times_lr.
    """

    cell: str
    seed: int
    update: int
    epoch: float
    samples: int
    lr: float
    values: dict[str, float]


@dataclass(frozen=True)
class CellRow(Result):
    """One cell over its seeds.

    Args:
        gradient_cost: per-sample gradients of one run, in millions.
        finished, diverged, failed, missing: how many of the seeds.
        estimates: over finished seeds, by name: test_accuracy and train_accuracy in %, losses, distance, measurements.
        gap: test accuracy of the reference minus this, in points, or the loss where the task has no accuracy.
        published: a paper's own figures of it.
    """

    name: str
    about: str
    task: str
    group: str
    reference: bool
    global_batch_size: int
    optimizer: str
    lr: float
    warmup: str
    ghost_batch_size: int | None
    updates: int
    samples: int
    gradient_cost: float
    recipe: dict[str, Any]
    budget: str = ""
    finished: int = 0
    diverged: int = 0
    failed: int = 0
    missing: int = 0
    estimates: dict[str, Estimate] = field(default_factory=dict)
    gap: Estimate | None = None
    published: tuple[Published, ...] = ()


@dataclass(frozen=True)
class ContrastRow(Result):
    """One comparison, judged; see `Contrast`.

    Args:
        p: NaN where there is none.
        p_holm: corrected over the primary contrasts; NaN for exploratory ones.
        seeds_needed: how many would probably settle what these do not; None where they do, or nobody can tell.
        cells: of a correlation or a break point.
        published: what a paper found, in words.
    """

    name: str
    question: str
    kind: str
    a: str
    b: str
    metric: str
    estimate: Estimate
    primary: bool
    margin: float | None
    p: float
    p_holm: float
    verdict: str
    sentence: str
    seeds_needed: int | None = None
    cells: tuple[str, ...] = ()
    published: str = ""

    @property
    def shown(self) -> Estimate:
        """The estimate as it is read: a share in per cent."""
        e = self.estimate
        if self.kind != "share":
            return e
        numbers = {name: 100 * getattr(e, name) for name in ("value", "stderr", "low", "high")}
        return replace(e, **numbers, unit="% of the gap")


@dataclass(frozen=True)
class PathRow(Result):
    """The line between two runs of one seed."""

    a: str
    b: str
    seed: int
    path: Path


@dataclass(frozen=True)
class PlaneRow(Result):
    """Losses around a run's final weights."""

    cell: str
    seed: int
    plane: Plane


@dataclass(frozen=True)
class SpectrumRow(Result):
    """Eigenvalues at a run's final weights."""

    cell: str
    seed: int
    spectrum: Spectrum


@dataclass(frozen=True)
class StudyResult(Result):
    """All that a study found.

    Args:
        complete: every run has ended, and all that was planned is measured.
        answer: sentences, the most important first.
        notes: limits, and what was left out.
        command: that made it.
        versions: of what computed it.
        seconds: of all runs and measurements together.
        published: whose the published figures are, if there are any.
    """

    name: str
    question: str
    task: str
    seeds: tuple[int, ...]
    complete: bool
    answer: tuple[str, ...]
    cells: tuple[CellRow, ...]
    contrasts: tuple[ContrastRow, ...]
    runs: tuple[RunRow, ...]
    measurements: tuple[MeasureRow, ...] = ()
    looks: tuple[LookRow, ...] = ()
    paths: tuple[PathRow, ...] = ()
    planes: tuple[PlaneRow, ...] = ()
    spectra: tuple[SpectrumRow, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    references: tuple[str, ...] = ()
    published: str = ""

    def contrast(self, name: str) -> ContrastRow | None:
        """The contrast of that name, if the study has it."""
        return next((row for row in self.contrasts if row.name == name), None)

    def cell(self, name: str) -> CellRow | None:
        """The cell of that name, if the study has it."""
        return next((row for row in self.cells if row.name == name), None)

    def table(self) -> Table:
        """The cells, for reading."""
        return cell_table(self)

    def sharpness_table(self, *, by_cell: bool = False) -> Table:
        """What was measured at the end of runs, one row for each measure, or each cell; no rows where nothing was."""
        return sharpness_table(self, by_cell=by_cell)

    def text(self) -> str:
        """The answer, then the tables, for a terminal."""
        return study_text(self)


def read_study(folder: str | FilePath) -> StudyResult:
    """What `study.run_study` left in a folder; also while it is at work.

    Raises:
        ValueError: the folder holds no study.
    """
    held = RunFolder(FilePath(folder)).read("result.json")
    if held is None or "contrasts" not in held:
        raise ValueError(
            f"{folder}: expected the folder of a study, as `largebatch study … --out` leaves it, found none"
        )
    return StudyResult.from_json(held)


def curves(folder: str | FilePath, row: RunRow) -> list[dict[str, Any]]:
    """The log of one run: rows of kind "update" and "epoch"; none where the run left none."""
    return RunFolder(FilePath(folder) / row.folder).log() if row.folder else []
