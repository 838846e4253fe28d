"""Sharpness of stored runs, kind by kind and side by side."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from largebatch.core import BatchNormMode, Measurement, Risk, Task, data_size
from largebatch.diagnose._runs import StoredRun, find_task, read_run
from largebatch.results import Cell, Column, Result, Table
from largebatch.sharpness import ExpectedCost, Options, expected_cost, resolve, sharpness_all

__all__ = ["RunSharpness", "SharpnessTable", "Survey"]


@dataclass(frozen=True)
class RunSharpness(Result):
    """What was measured of one run."""

    run: str
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True)
class SharpnessTable(Result):
    """The same kinds for each run, in the same order."""

    runs: tuple[RunSharpness, ...]

    def text(self) -> str:
        """A row for each kind, a column for each run; then what leaves each kind unchanged, and remarks."""
        first = self.runs[0].measurements
        columns = [Column("kind"), *(Column(run.run) for run in self.runs), Column("passes", format=".0f")]
        rows: list[list[Cell]] = [
            [row[0].name, *(m.value for m in row), sum(m.passes for m in row)]
            for row in zip(*(run.measurements for run in self.runs), strict=True)
        ]
        head = f"{first[0].samples} samples, batch-norm statistics: {first[0].batch_norm}, {first[0].dtype}"
        unchanged = _listed((m.name, m.unchanged_by) for m in first)
        remarks = _listed((m.name, m.note) for run in self.runs for m in run.measurements)
        return "\n".join([
            head, Table(columns, rows).text(), "", "unchanged by", *unchanged, "remarks", *remarks, ""
        ])  # fmt: skip


def _listed(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """One line for each text, with all the names it goes with."""
    names: dict[str, dict[str, None]] = {}
    for name, text in pairs:
        if text:
            names.setdefault(text, {})[name] = None
    return [f"  {', '.join(found)}: {text}" for text, found in names.items()]


@final
class Survey:
    """Sharpness of the newest weights of some runs of one task, all on the same samples; can be priced beforehand.

    Args:
        runs: run folders.
        kinds: names in `SHARPNESS`, or name → options; None for all.
        batch_norm: whose statistics. "batch": those of all samples together.
        samples: of the training data.
        task: what the runs were trained on; None: found by what they recorded.
        device: where to compute.
        seed: of the samples and of random directions.

    Raises:
        ValueError: no runs, runs that have not ended, unknown kinds, samples below 1.
    """

    def __init__(
        self, runs: Sequence[str | Path], kinds: Sequence[str] | Mapping[str, Options] | None = None, *,
        batch_norm: BatchNormMode = "running", samples: int = 2048, task: Task | None = None, device: str = "cpu",
        seed: int = 0,
    ):  # fmt: skip
        self._kinds = resolve(kinds)
        if samples < 1 or not runs:
            raise ValueError(f"expected at least one run and one sample, got {len(runs)} run(s) and {samples} samples")
        self._runs = [_ended(path) for path in runs]
        self._task = find_task(self._runs[0]) if task is None else task
        self._samples = min(samples, data_size(self._task.train))
        self._batch_norm: BatchNormMode = batch_norm
        self._device, self._seed = device, seed

    def cost(self) -> tuple[ExpectedCost, ...]:
        """Of each kind, over all runs."""
        n = len(self._runs)
        costs = expected_cost(self._risk(self._runs[0]), self._kinds)
        return tuple(ExpectedCost(c.name, n * c.passes, n * c.seconds, c.memory_bytes) for c in costs)

    def measure(self) -> SharpnessTable:
        """Every kind of every run."""
        found = {run.record.name: sharpness_all(self._risk(run), self._kinds, seed=self._seed) for run in self._runs}
        return SharpnessTable(tuple(RunSharpness(name, measured) for name, measured in found.items()))

    def _risk(self, run: StoredRun) -> Risk:
        task, size = self._task, self._samples if self._batch_norm == "batch" else min(self._samples, 1024)
        model = run.model(task).to(self._device)
        risk = Risk(model, task.loss, task.train, batch_norm=self._batch_norm, batch_size=size)
        return risk.subset(self._samples, self._seed)


def _ended(path: str | Path) -> StoredRun:
    run = read_run(path)
    if run is None:
        raise ValueError(
            f"{path}: expected a run that has ended, it was interrupted: the same train command continues it"
        )
    return run
