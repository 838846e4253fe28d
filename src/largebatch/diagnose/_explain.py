"""From two groups of run folders to a verdict: read them, measure what is not yet measured, judge from the tables.

The folder it writes: runs.json (what the logs say), measurements.json (every number with its uncertainty and cost),
line.json and curve.json, verdicts.json. The last follows from the first two by `redo`, without measuring.
"""

import time
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any, final

import torch
from torch import Tensor

from largebatch.core import Task, data_size
from largebatch.diagnose._diagnosis import Diagnosis, DiagnosisCost, diagnosis
from largebatch.diagnose._evidence import Evidence, Row, RunRecord
from largebatch.diagnose._joining import join, joining_passes, read_paths
from largebatch.diagnose._ledger import Ledger
from largebatch.diagnose._measure import Bench, Plan, due, measure
from largebatch.diagnose._runs import find_task, read_groups
from largebatch.results import read_json

__all__ = ["Inquiry", "explain_gap", "redo"]

VECTORS = 90  # of P numbers: Lanczos' basis of at most 60, and the columns and copies of the searches


def explain_gap(
    small: Sequence[str | FilePath],
    large: Sequence[str | FilePath],
    *,
    out: str | FilePath | None = None,
    task: Task | None = None,
    samples: int = 2048,
    quick: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> Diagnosis:
    """Judge six hypotheses on why the large batch's test error is higher.

    Args:
        small, large: run folders, one for each seed; 3 or more of each give intervals.
        out: folder for the evidence, in which {task}, {small} and {large} (batch sizes) are filled in; what is there
            already is not measured again. None keeps nothing.
        task: what the runs were trained on; None: found by what they recorded.
        samples: of the training data, for curvature and sharpness.
        quick: two measures of sharpness, running statistics only, no paths.
        seed: of the subset and of random directions.
        device: where to compute.

    Raises:
        ValueError: runs that cannot be compared, or a task that is not theirs.
    """
    return Inquiry(small, large, out=out, task=task, plan=Plan(samples, quick, seed, device)).run()


@final
class Inquiry:
    """A diagnosis that can be priced before it is run. Arguments as for `explain_gap`."""

    def __init__(
        self, small: Sequence[str | FilePath], large: Sequence[str | FilePath], *, out: str | FilePath | None = None,
        task: Task | None = None, plan: Plan | None = None,
    ):  # fmt: skip
        self.plan = Plan() if plan is None else plan
        if self.plan.samples < 1:
            raise ValueError(f"samples: expected at least 1, and some thousand for use, got {self.plan.samples}")
        self.groups = read_groups(small, large)
        self.ledger = Ledger(None if out is None else self._folder(str(out)))
        self.task = find_task(self.groups.small[0]) if task is None else task

    @property
    def _can_compare(self) -> bool:
        """Whether weights of both groups can be measured."""
        return all(
            any(run.record.status == "finished" for run in side) for side in (self.groups.small, self.groups.large)
        )

    def cost(self) -> DiagnosisCost:
        """What is still to be measured, by the time of one pass."""
        jobs = due(self.groups, self.task, self.plan, self.ledger) if self._can_compare else []
        passes = sum(job.passes for job in jobs)
        if self._can_compare:
            passes += joining_passes(self.groups, self.task, self.plan, self.ledger)
        if not passes:
            return DiagnosisCost(0, 0.0, 0.0, 0)
        run = self.groups.finished[0]
        bench = Bench(run, self.task, self.plan, run.model(self.task).to(self.plan.device))
        seconds, memory_bytes = _one_pass(bench)
        return DiagnosisCost(len(jobs), passes, passes * seconds, memory_bytes)

    def run(self) -> Diagnosis:
        """Measure what is due, and judge.

        Raises:
            ValueError: as `explain_gap`.
            RuntimeError: another process measures into the same folder.
        """
        with self.ledger.alone():
            return self._run()

    def _run(self) -> Diagnosis:
        groups, ledger = self.groups, self.ledger
        runs = {"small": groups.small, "large": groups.large}
        records = {side: [run.record.to_json() for run in found] for side, found in runs.items()}
        ledger.write("runs.json", records | {"samples": self._samples(), "notes": list(groups.notes)})
        paths = {}
        if self._can_compare:
            measure(groups, self.task, self.plan, ledger)
            paths = join(groups, self.task, self.plan, ledger)
        folder = None if ledger.folder is None else str(ledger.folder.path)
        found = diagnosis(self.evidence(), paths=paths, notes=groups.notes, folder=folder)
        ledger.write("verdicts.json", _verdicts(found))
        return found

    def evidence(self) -> Evidence:
        """The tables, as far as they are measured."""
        small, large = ([run.record for run in side] for side in (self.groups.small, self.groups.large))
        return _evidence(small, large, self.ledger.rows, self._samples())

    def _folder(self, out: str) -> FilePath:
        small, large = (side[0].record for side in (self.groups.small, self.groups.large))
        out = out.replace("{task}", small.task.replace("/", "-"))
        sizes = (run.settings.global_batch_size for run in (small, large))
        for name, size in zip(("{small}", "{large}"), sizes, strict=True):
            out = out.replace(name, str(size))
        return FilePath(out)

    def _samples(self) -> list[int]:
        """Whole and subset: other numbers in the folder are those of another plan."""
        whole = data_size(self.task.train)
        return [whole, min(self.plan.samples, whole)]


def redo(folder: str | FilePath) -> Diagnosis:
    """Judge again from the tables in a diagnosis' folder.

    Raises:
        FileNotFoundError: it holds none.
    """
    held = read_json(FilePath(folder) / "runs.json")
    small, large = ([RunRecord.from_json(row) for row in held[side]] for side in ("small", "large"))
    ledger = Ledger(FilePath(folder))
    evidence = _evidence(small, large, ledger.rows, held["samples"])
    found = diagnosis(evidence, paths=read_paths(ledger), notes=tuple(held["notes"]), folder=str(folder))
    ledger.write("verdicts.json", _verdicts(found))
    return found


def _evidence(
    small: list[RunRecord], large: list[RunRecord], rows: tuple[Row, ...], samples: list[int]
) -> Evidence:  # fmt: skip
    digests = {run.digest for run in (*small, *large)}
    chosen = tuple(row for row in rows if row.digest in digests and row.samples in samples)
    return Evidence(tuple(small), tuple(large), chosen)


def _verdicts(found: Diagnosis) -> dict[str, Any]:
    kept = ("task", "small", "large", "small_batch_size", "large_batch_size", "metric", "gap", "hypotheses")
    return {"answer": found.sentence()} | {name: found.to_json()[name] for name in kept}


def _one_pass(bench: Bench) -> tuple[float, int]:
    """Seconds of a pass forward and backward over the subset, and the bytes that a kept graph and the vectors take."""
    risk = bench.risk("running")
    weights = {p.data_ptr() for p in bench.model.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.nbytes
        return tensor

    batch = risk.subset(risk.batch_size)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        batch.value_and_gradient()  # warms up as well
    begun = time.perf_counter()
    batch.value_and_gradient()
    scale = risk.samples / batch.samples
    activations = sum(size for address, size in saved.items() if address not in weights)
    vector_bytes = risk.dimension * risk.parameters[0].element_size()
    return (time.perf_counter() - begun) * scale, round(2 * activations * scale) + VECTORS * vector_bytes
