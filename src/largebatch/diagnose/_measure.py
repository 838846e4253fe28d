"""What a diagnosis measures of each run's final weights: errors, curvature, sharpness, the linear rule. Resumable.

Losses and errors are exact, over all samples. Curvature and sharpness are those of one subset of the training data, the same
for all runs, because they cost some hundred passes: what they say is compared between runs, not with other data sets.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import final

import torch
from torch import nn

from largebatch import curvature
from largebatch.core import (
    BatchNormMode,
    Risk,
    Stopwatch,
    Task,
    data_size,
    has_batch_norm,
    progress,
    spare_statistics,
    stopwatch,
)
from largebatch.diagnose._evidence import Row
from largebatch.diagnose._ledger import Ledger
from largebatch.diagnose._runs import Groups, StoredRun
from largebatch.landscape import linear_rule
from largebatch.sharpness import SHARPNESS, Options, resolve, sharpness

__all__ = ["Job", "Plan", "due", "label", "measure"]

KINDS: tuple[tuple[str, Options], ...] = (
    ("metric_2_1", {}),
    ("metric_2_1", {"epsilon": 5e-4}),
    ("metric_2_1_subspace", {}),
    ("metric_2_1_subspace", {"epsilon": 5e-4}),
    ("metric_2_1_ascent", {}),
    ("trace", {}),
    ("asam", {}),
    ("adaptive_linf", {}),
)
QUICK_KINDS: tuple[tuple[str, Options], ...] = (("metric_2_1_ascent", {}), ("adaptive_linf", {}))
MAX_PRODUCTS = 60  # of the Hessian: the smallest eigenvalue, in the bulk, takes many; its bound tells what is missing
LANCZOS_PASSES = 2 * MAX_PRODUCTS  # for the preview
CHANGED = 1e-2  # relative; rounding and the order of sums leave 1e-5, bf16 autocast some 1e-3
REPEATS = 3  # draws of the linear rule


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Args:
        samples: of the training data, for curvature and sharpness.
        quick: two measures of sharpness, running statistics only, no paths.
        seed: of the subset and of random directions.
        device: where to compute.
    """

    samples: int = 2048
    quick: bool = False
    seed: int = 0
    device: str = "cpu"

    @property
    def kinds(self) -> tuple[tuple[str, Options], ...]:
        """Measures of sharpness with their options."""
        return QUICK_KINDS if self.quick else KINDS

    @property
    def modes(self) -> tuple[BatchNormMode, ...]:
        """Batch-norm modes of curvature and sharpness."""
        return ("running",) if self.quick else ("running", "batch")


@final
@dataclass
class Bench:
    """One run's model at hand, and the risks it is measured by."""

    run: StoredRun
    task: Task
    plan: Plan
    model: nn.Module
    _risks: dict[BatchNormMode, Risk] = field(default_factory=dict)

    def risk(self, mode: BatchNormMode) -> Risk:
        """On the subset; batch statistics are those of the whole of it, as Keskar et al. took them over 5,000 samples."""
        if mode not in self._risks:
            samples = min(self.plan.samples, data_size(self.task.train))
            size = samples if mode == "batch" else min(samples, 1024)
            whole = Risk(self.model, self.task.loss, self.task.train, batch_norm=mode, batch_size=size)
            self._risks[mode] = whole.subset(self.plan.samples, self.plan.seed)
        return self._risks[mode]

    def rows(
        self, found: dict[str, tuple[float, float]], watch: Stopwatch, mark: str, samples: int, note: str = ""
    ) -> list[Row]:
        """Measurements of this run that were made together, name → (value, standard error); they share their cost."""
        record, passes, seconds = self.run.record, watch.passes / len(found), watch.seconds / len(found)
        return [
            Row(name, record.name, record.digest, value, stderr, mark, samples, passes, seconds, note=note)
            for name, (value, stderr) in found.items()
        ]


@dataclass(frozen=True)
class Job:
    """Rows that are measured together.

    Args:
        passes: expected, in passes forward and backward over the subset.
    """

    run: StoredRun
    names: tuple[str, ...]
    batch_norm: str
    samples: int
    passes: float
    measure: Callable[[Bench], list[Row]]


def label(kind: str, options: Options) -> str:
    """A measure's name with the options that are not defaults."""
    return f"{kind}({','.join(f'{name}={value:g}' for name, value in options.items())})" if options else kind


def due(groups: Groups, task: Task, plan: Plan, ledger: Ledger) -> list[Job]:
    """What is not yet in the ledger."""
    return [
        job
        for job in _jobs(groups, task, plan)
        if not ledger.has(job.run.record.digest, job.names, job.batch_norm, job.samples)
    ]


def measure(groups: Groups, task: Task, plan: Plan, ledger: Ledger) -> None:
    """Do what is due, run by run, and keep each result at once.

    Raises:
        ValueError: the task is not the one the runs were trained on, or a model that cannot be measured.
    """
    waiting = due(groups, task, plan, ledger)
    with progress("diagnosis", sum(job.passes for job in waiting), "passes") as bar:
        for run in groups.finished:
            mine = [job for job in waiting if job.run is run]
            bench = Bench(run, task, plan, run.model(task).to(plan.device)) if mine else None
            for job in mine:
                assert bench is not None
                ledger.add(job.measure(bench))
                bar.update(job.passes)


def _jobs(groups: Groups, task: Task, plan: Plan) -> Iterator[Job]:
    """All that a diagnosis measures, whether it is done or not."""
    whole, part = data_size(task.train), min(plan.samples, data_size(task.train))
    evaluation = (whole + data_size(task.test)) / 3 / part  # forward passes
    with torch.random.fork_rng(devices=[]):
        model = task.model()
    normed, dimension = has_batch_norm(model), sum(p.numel() for p in model.parameters() if p.requires_grad)
    errors = tuple(f"{split}_{name}" for split in ("train", "test") for name in ("loss", *task.metrics))
    for run in groups.finished:
        yield Job(run, errors, "running" if normed else "none", whole, evaluation, _errors)
        if normed:
            yield Job(run, errors, "reestimated", whole, evaluation + whole / 3 / part, _errors_anew)
        for mode in plan.modes if normed else ("running",):
            mark = mode if normed else "none"
            names = ("gradient_norm", "lambda_max", "lambda_min")
            yield Job(run, names, mark, part, 1 + LANCZOS_PASSES, partial(_curvature, mode=mode, mark=mark))
            for kind, options in plan.kinds:
                settings = resolve({kind: options})[kind]
                if (settings.get("subspace") or 0) > dimension:
                    continue  # it would be the whole space
                gradients, values = SHARPNESS[kind].evaluations(settings)
                work = partial(_sharpness, kind=kind, options=options, mode=mode)
                yield Job(run, (label(kind, options),), mark, part, gradients + values / 3, work)
    yield from _linear_jobs(groups, task, part, "batch" if normed else "none")


def _linear_jobs(groups: Groups, task: Task, part: int, mark: str) -> Iterator[Job]:
    """At the small batch's start and end. The rule is one of SGD: Adam's step does not scale with the gradient."""
    n, large = (group[0].record.settings.global_batch_size for group in (groups.small, groups.large))
    k, whole = large // n, data_size(task.train)
    for run in groups.small:
        recipe = run.record.settings
        if recipe.optimizer == "sgd" and run.record.status == "finished" and 1 < k <= whole // n:
            for name, samples in (("linear_rule at the start", 0), ("linear_rule at the end", None)):
                work = partial(_linear_rule, name=name, samples=samples, k=k)
                yield Job(run, (name,), mark, whole, 2 * REPEATS * k * n / part, work)


def _errors(bench: Bench) -> list[Row]:
    mark = "running" if has_batch_norm(bench.model) else "none"
    rows = _evaluate(bench, mark)
    recorded, found = bench.run.record.metrics["test_loss"], next(row.value for row in rows if row.name == "test_loss")
    if not abs(found - recorded) <= CHANGED * (0.1 + abs(recorded)):
        raise ValueError(
            f"{bench.run.path}: expected the test loss that was recorded, {recorded:.5g}, but task {bench.task.name} now "
            f"gives {found:.5g}: the task has changed since; restore it, or train the runs again"
        )
    return rows


def _errors_anew(bench: Bench) -> list[Row]:
    """With statistics taken anew over the training data, for the test data too."""
    with spare_statistics(bench.model):
        Risk(bench.model, bench.task.loss, bench.task.train).reestimate()
        return _evaluate(bench, "reestimated")


def _evaluate(bench: Bench, mark: str) -> list[Row]:
    """train_loss, test_loss, and each metric likewise, over all samples."""
    task = bench.task
    risks = {split: Risk(bench.model, task.loss, data) for split, data in (("train", task.train), ("test", task.test))}
    found: dict[str, float] = {}
    with stopwatch(*risks.values()) as watch:
        for split, risk in risks.items():
            found |= {f"{split}_{name}": value for name, value in risk.means(task.metrics).items()}
    return bench.rows({name: (value, 0.0) for name, value in found.items()}, watch, mark, risks["train"].samples)


def _curvature(bench: Bench, mode: BatchNormMode, mark: str) -> list[Row]:
    risk = bench.risk(mode)
    with stopwatch(risk) as watch:
        gradient = float(risk.gradient().norm())
        operator = curvature.Hessian(risk)
        found = curvature.lanczos(
            operator, 1, which="both", tolerance=1e-2, max_products=MAX_PRODUCTS, seed=bench.plan.seed
        )  # fmt: skip
    note = "" if found.converged else "Lanczos stopped before it reached the tolerance"
    (largest, smallest), (above, below) = found.values.tolist(), found.bounds.tolist()
    measured = {"gradient_norm": (gradient, 0.0), "lambda_max": (largest, above), "lambda_min": (smallest, below)}
    return bench.rows(measured, watch, mark, risk.samples, note)


def _sharpness(bench: Bench, kind: str, options: Options, mode: BatchNormMode) -> list[Row]:
    found = sharpness(bench.risk(mode), kind, seed=bench.plan.seed, **options)
    record = bench.run.record
    return [
        Row(label(kind, options), record.name, record.digest, found.value, found.stderr, found.batch_norm, found.samples,
            found.passes, found.seconds, found.details, found.note)
    ]  # fmt: skip


def _linear_rule(bench: Bench, name: str, samples: int | None, k: int) -> list[Row]:
    record = bench.run.record
    model = bench.run.model(bench.task, samples).to(bench.plan.device)
    found = linear_rule(
        model, bench.task.loss, bench.task.train, batch_size=record.settings.global_batch_size, k=k, lr=record.settings.lr,
        repeats=REPEATS, seed=bench.plan.seed,
    )  # fmt: skip
    return [
        Row(name, record.name, record.digest, found.ratio.value, found.ratio.stderr, found.batch_norm, found.samples,
            found.passes, found.seconds, {"k": float(k)}, found.note or found.ratio.note)
    ]  # fmt: skip
