"""Step times measured on this machine, for `plan`: compute at three sizes, all-reduce at five, and how far they overlap.

Compute is timed on one worker alone and on all workers at once, since workers of one machine share its memory; all-reduce
over the process group that training would use. One thread a worker, and a median of each time. How far a worker's updates
scatter within a round is the jitter, for which the others wait.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from largebatch import plan
from largebatch.core import Task, data_size
from largebatch.results import Result, refuse
from largebatch.trials._timed_updates import WARM_UPDATES, Job, Kind, Times, on_ranks, recipe_of

__all__ = ["HeldOut", "StepMeasurement", "measure_steps"]

_SMALLEST = 64  # samples of a worker
REDUCED_BYTES = (16_384, 262_144, 1_048_576, 4_194_304, 16_777_216)


@final
@dataclass(frozen=True)
class HeldOut(Result):
    """A step time that was measured in the same rounds and predicted from those at other sizes."""

    workers: int
    local_batch_size: int
    predicted_seconds: float
    measured_seconds: float

    @property
    def error(self) -> float:
        """Predicted ÷ measured − 1."""
        return self.predicted_seconds / self.measured_seconds - 1


@final
@dataclass(frozen=True)
class StepMeasurement(Result):
    """What was measured and what was fitted to it.

    Args:
        workers: on this machine.
        alone, together: compute on one worker while the others rest, and while all compute.
        network: of an all-reduce over the workers.
        jitter: standard deviation of a worker's update, as a share of it.
        overlap: how far the all-reduce hides behind the compute, and what joining takes; fitted to whole updates at the same
            sizes.
        gradient_bytes: of all parameters.
        held_out: predictions to judge the model by.
    """

    task: str
    workers: int
    local_batch_sizes: tuple[int, ...]
    alone: plan.ComputeFit
    together: plan.ComputeFit
    network: plan.NetworkFit
    jitter: float
    overlap: plan.OverlapFit
    gradient_bytes: float
    held_out: tuple[HeldOut, ...] = ()

    def step_time(self, *, together: bool = False) -> plan.StepTime:
        """The model of an update; `together` for workers that share one machine, as those measured do."""
        compute = self.together if together else self.alone
        return plan.StepTime(
            compute.seconds_per_sample.value,
            compute.fixed_seconds.value,
            _linked(self.network),
            self.gradient_bytes,
            overlap_exponent=self.overlap.exponent.value,
            joining_seconds=self.overlap.joining_seconds.value,
            jitter=self.jitter,
            relative_error=max(compute.residual, self.network.residual, self.overlap.residual),
        )

    def text(self) -> str:
        """In a line."""
        bandwidth = 1e-9 / self.network.seconds_per_byte.value
        return (
            f"{1e3 * self.alone.fixed_seconds.value:.2f} ms + {1e6 * self.alone.seconds_per_sample.value:.1f} µs a sample "
            f"alone, {1e6 * self.together.seconds_per_sample.value:.1f} µs with {self.workers} at once; all-reduce "
            f"{1e6 * self.network.latency_seconds.value:.0f} µs a message, {bandwidth:.2f} GB/s; "
            f"jitter {100 * self.jitter:.1f} %, overlap exponent {self.overlap.exponent.value:.2f}, "
            f"joining {1e3 * self.overlap.joining_seconds.value:.2f} ms"
        )


def measure_steps(
    task: Task,
    *,
    local_batch_sizes: Sequence[int] | None = None,
    held_out: Sequence[int] = (),
    workers: int = 2,
    updates: int = 8,
    rounds: int = 3,
) -> StepMeasurement:
    """Measure and fit.

    Args:
        task: a built-in one, or one from a file: each worker loads it by itself.
        local_batch_sizes: three or more, to be fitted; whole ghosts, for ranks have equal shares of nothing else. None: from
            64 or the next whole ghost on, twice and four times that; less where the training data are few.
        held_out: other sizes to be predicted, on one worker and on all, and timed beside the others.
        workers: 2 or more, of one thread each.
        updates: that are timed in a round, at each size.
        rounds: in which the sizes take turns.

    Raises:
        ValueError: fewer than 2 workers, fewer than 3 sizes, sizes that are no whole ghosts or both fitted and held out,
            all told together; sizes whose epoch ends while they are timed.
        RuntimeError: what a worker failed of, such as a task that it did not find.
    """
    ghost = recipe_of(task).ghost_batch_size or 1
    if local_batch_sizes is None:
        local_batch_sizes = _sizes(ghost, data_size(task.train) // (max(workers, 1) * (updates + WARM_UPDATES)))
    _refuse(local_batch_sizes, held_out, workers, ghost)
    _refuse_short_epochs((*local_batch_sizes, *held_out), workers, updates + WARM_UPDATES, data_size(task.train))
    kinds: tuple[Kind, ...] = ("alone", "apart", "joined")
    jobs = [Job(kind, size, updates) for kind in kinds for size in local_batch_sizes]
    jobs += [Job(kind, size, updates) for kind in ("alone", "joined") for size in held_out]
    jobs += [Job("joined", size, 0) for size in REDUCED_BYTES]
    times = on_ranks(task.origin or task.name, jobs, workers, rounds)
    n_bytes = float(4 * sum(p.numel() for p in task.model().parameters()))
    found = _fitted(task.name, workers, tuple(local_batch_sizes), times, n_bytes)
    checks = [(job, times[job].seconds) for job in jobs if job.size in held_out and job.updates]
    return replace(found, held_out=tuple(_held_out(found, job, seconds) for job, seconds in checks))


def _fitted(
    task: str, workers: int, sizes: tuple[int, ...], times: dict[Job, Times], n_bytes: float
) -> StepMeasurement:
    def seconds(kind: Kind) -> list[float]:
        return [times[job].seconds for job in times if job.kind == kind and job.size in sizes and job.updates]

    reduced = [times[job].seconds for job in times if not job.updates]
    network = plan.fit_network([workers] * len(reduced), REDUCED_BYTES, reduced)
    jitter = statistics.median(found.scatter for job, found in times.items() if job.kind == "apart")
    waits = [float(_linked(network).seconds(workers, n_bytes))] * len(sizes)
    slowest = [value * (1 + jitter * float(plan.expected_maximum(workers))) for value in seconds("apart")]
    return StepMeasurement(
        task, workers, sizes, plan.fit_compute(sizes, seconds("alone")), plan.fit_compute(sizes, seconds("apart")),
        network, jitter, plan.fit_overlap(slowest, waits, seconds("joined")), n_bytes,
    )  # fmt: skip


def _linked(fit: plan.NetworkFit) -> plan.Network:
    return plan.Network(plan.Link(1 / fit.seconds_per_byte.value, fit.latency_seconds.value))


def _held_out(found: StepMeasurement, job: Job, seconds: float) -> HeldOut:
    workers = found.workers if job.kind == "joined" else 1
    predicted = float(found.step_time(together=workers > 1).seconds(workers, job.size))
    return HeldOut(workers, job.size, predicted, seconds)


def _sizes(ghost: int, most: int) -> tuple[int, ...]:
    """Once, twice and four times about 64 samples in whole ghosts, the largest up to `most` where a ghost allows it."""
    unit = ghost * max(1, min(-(-_SMALLEST // ghost), most // 4 // ghost))
    return unit, 2 * unit, 4 * unit


def _refuse(fitted: Sequence[int], held_out: Sequence[int], workers: int, ghost: int) -> None:
    mistakes: list[str] = []
    if workers < 2:
        mistakes.append(f"workers: expected 2 or more to measure an all-reduce, got {workers}")
    if len(set(fitted)) < 3:
        mistakes.append(
            f"local_batch_sizes: expected 3 different ones or more, got {list(fitted)}; two leave no residual"
        )
    bad = [size for size in (*fitted, *held_out) if size < 1 or size % ghost]
    if bad:
        mistakes.append(f"sizes: expected whole ghosts of {ghost} samples, which ranks share equally, got {bad}")
    both = sorted(set(fitted) & set(held_out))
    if both:
        mistakes.append(f"held_out: expected sizes that are not fitted, got {both}; a prediction is judged by others")
    refuse("step times", mistakes)


def _refuse_short_epochs(sizes: Sequence[int], workers: int, updates: int, train_size: int) -> None:
    """An epoch ends with a short batch and an evaluation, which would be timed as updates."""
    bad = [size for size in sizes if size * workers * updates > train_size]
    if bad:
        raise ValueError(
            f"step times: expected at least {updates} updates of {workers} workers in an epoch of {train_size} samples, "
            f"which {bad} samples a worker do not leave; take smaller sizes, or fewer updates"
        )
