"""Step times measured on this machine, for `plan`: compute at three sizes, all-reduce at five, and how far they overlap.

Compute is timed on one worker alone and on all workers at once, since workers of one machine share its memory; all-reduce
over the process group that training would use. One thread a worker. Every time is that of whole updates of `fit`, from one
to the next, and a median. Sizes take turns in rounds, so that a machine that drifts drifts for all of them; how far a
worker's updates scatter within a round is the jitter, for which the others wait.
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any, Literal, final

from largebatch import plan
from largebatch.core import EpochView, Request, Task, View, World, world_from_environment
from largebatch.recipe import Recipe
from largebatch.results import Result

__all__ = ["HeldOut", "StepMeasurement", "measure_steps"]

REDUCED_BYTES = (16_384, 262_144, 1_048_576, 4_194_304, 16_777_216)
_Kind = Literal["alone", "apart", "joined"]
_REPEATS = 15
_NORMAL = 1.4826  # standard deviation ÷ median absolute deviation of Normals
_WARM = 3


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
        overlap: how far the all-reduce hides behind the compute; fitted to whole updates at the same sizes.
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
        link = plan.Link(1 / self.network.seconds_per_byte.value, self.network.latency_seconds.value)
        return plan.StepTime(
            compute.seconds_per_sample.value,
            compute.fixed_seconds.value,
            plan.Network(link),
            self.gradient_bytes,
            overlap_exponent=self.overlap.exponent.value,
            jitter=self.jitter,
            relative_error=max(compute.residual, self.network.residual),
        )

    def text(self) -> str:
        """In a line."""
        bandwidth = 1e-9 / self.network.seconds_per_byte.value
        return (
            f"{1e3 * self.alone.fixed_seconds.value:.2f} ms + {1e6 * self.alone.seconds_per_sample.value:.1f} µs a sample "
            f"alone, {1e6 * self.together.seconds_per_sample.value:.1f} µs with {self.workers} at once; all-reduce "
            f"{1e6 * self.network.latency_seconds.value:.0f} µs a message, {bandwidth:.2f} GB/s; "
            f"jitter {100 * self.jitter:.1f} %, overlap exponent {self.overlap.exponent.value:.2f}"
        )


def measure_steps(
    task: Task,
    *,
    local_batch_sizes: Sequence[int] = (64, 128, 256),
    held_out: Sequence[int] = (),
    workers: int = 2,
    updates: int = 8,
    rounds: int = 3,
) -> StepMeasurement:
    """Measure and fit.

    Args:
        task: a built-in one, or one from a file: each worker loads it by itself.
        local_batch_sizes: three or more, to be fitted.
        held_out: sizes to be predicted, on one worker and on all, and timed beside the others.
        workers: 2 or more, of one thread each.
        updates: that are timed in a round, at each size.
        rounds: in which the sizes take turns.

    Raises:
        ValueError: a task that no worker could find, or fewer than 2 workers.
        RuntimeError: what a worker failed of.
    """
    if workers < 2:
        raise ValueError(f"workers: expected 2 or more to measure an all-reduce, got {workers}")
    kinds: tuple[_Kind, ...] = ("alone", "apart", "joined")
    jobs = [_Job(kind, size, updates) for kind in kinds for size in local_batch_sizes]
    jobs += [_Job(kind, size, updates) for kind in ("alone", "joined") for size in held_out]
    jobs += [_Job("joined", size, 0) for size in REDUCED_BYTES]
    times = _on_ranks(task.origin or task.name, jobs, workers, rounds)
    n_bytes = float(4 * sum(p.numel() for p in task.model().parameters()))
    found = _fitted(task.name, workers, tuple(local_batch_sizes), times, n_bytes)
    checks = [(job, times[job].seconds) for job in jobs if job.size in held_out and job.updates]
    return replace(found, held_out=tuple(_held_out(found, job, seconds) for job, seconds in checks))


def _fitted(
    task: str, workers: int, sizes: tuple[int, ...], times: "dict[_Job, _Times]", n_bytes: float
) -> StepMeasurement:
    def seconds(kind: _Kind) -> list[float]:
        return [times[job].seconds for job in times if job.kind == kind and job.size in sizes and job.updates]

    reduced = [times[job].seconds for job in times if not job.updates]
    network = plan.fit_network([workers] * len(reduced), REDUCED_BYTES, reduced)
    jitter = statistics.median(found.scatter for job, found in times.items() if job.kind == "apart")
    link = plan.Link(1 / network.seconds_per_byte.value, network.latency_seconds.value)
    waits = [float(plan.Network(link).seconds(workers, n_bytes))] * len(sizes)
    slowest = [value * (1 + jitter * float(plan.expected_maximum(workers))) for value in seconds("apart")]
    return StepMeasurement(
        task, workers, sizes, plan.fit_compute(sizes, seconds("alone")), plan.fit_compute(sizes, seconds("apart")),
        network, jitter, plan.fit_overlap(slowest, waits, seconds("joined")), n_bytes,
    )  # fmt: skip


def _held_out(found: StepMeasurement, job: "_Job", seconds: float) -> HeldOut:
    workers = found.workers if job.kind == "joined" else 1
    predicted = float(found.step_time(together=workers > 1).seconds(workers, job.size))
    return HeldOut(workers, job.size, predicted, seconds)


@dataclass(frozen=True)
class _Job:
    """One thing to time: on the first rank while the others rest, on each rank by itself at once, or on all together.

    Args:
        size: samples of each rank; or bytes of an all-reduce, where there are no updates.
        updates: that are timed in a round.
    """

    kind: _Kind
    size: int
    updates: int


@dataclass(frozen=True)
class _Times:
    """Of a job, by rank and round: each update's seconds."""

    updates: list[list[list[float]]]

    @property
    def seconds(self) -> float:
        """The slowest rank's median."""
        return max(statistics.median(chain(*rounds)) for rounds in self.updates if any(rounds))

    @property
    def scatter(self) -> float:
        """The standard deviation within a round, from the median of deviations, as a share; the median of all rounds."""
        return statistics.median(_scatter(times) for rounds in self.updates for times in rounds if times)


def _scatter(times: list[float]) -> float:
    middle = statistics.median(times)
    return _NORMAL * statistics.median(abs(x - middle) for x in times) / middle


def _on_ranks(where: str, jobs: Sequence[_Job], ranks: int, rounds: int) -> dict[_Job, _Times]:
    """What each job took.

    Raises:
        RuntimeError: what one rank failed of; the others were waiting for it.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(ranks)  # no rank takes two tasks: it waits here until every rank has one
    with (
        tempfile.TemporaryDirectory() as scratch,
        ProcessPoolExecutor(ranks, context, initializer=_meet_at, initargs=(barrier,)) as pool,
    ):
        running = [pool.submit(_rank, rank, scratch, where, list(jobs), rounds) for rank in range(ranks)]
        errors = [error for future in running if (error := future.exception()) is not None]
    if errors:
        first = next((error for error in errors if not isinstance(error, BrokenBarrierError)), errors[0])
        raise RuntimeError(f"measurement on {ranks} worker(s): a worker failed: {type(first).__name__}: {first}")
    found = [future.result() for future in running]
    return {job: _Times([[row[job] for row in rank] for rank in found]) for job in jobs}


_barrier: Barrier
"""Of the ranks that are measured; a process has it from its start, as it can be sent in no other way."""


def _meet_at(barrier: Barrier) -> None:
    global _barrier  # noqa: PLW0603
    _barrier = barrier


def _rank(rank: int, scratch: str, where: str, jobs: list[_Job], rounds: int) -> list[dict[_Job, list[float]]]:
    """By round: seconds of each update; none of what others do alone."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), OMP_NUM_THREADS="1")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        import torch

        from largebatch import tasks

        torch.set_num_threads(1)
        task = tasks.find(where)
        found: list[dict[_Job, list[float]]] = []
        for number in range(rounds):
            os.environ["WORLD_SIZE"] = "1"
            times = {job: _timed(job, task, World(), rank) for job in jobs if job.kind != "joined"}
            os.environ.update(
                WORLD_SIZE=str(_barrier.parties), LARGEBATCH_RENDEZVOUS=f"file://{Path(scratch) / str(number)}"
            )
            with world_from_environment(torch.device("cpu")) as world:
                times |= {job: _timed(job, task, world, rank) for job in jobs if job.kind == "joined"}
            found.append(times)
        return found
    except BaseException:
        _barrier.abort()
        raise


def _timed(job: _Job, task: Task, world: World, rank: int) -> list[float]:
    """All ranks begin together, and none goes on before all have ended."""
    _barrier.wait()
    seconds: list[float] = []
    if job.kind != "alone" or rank == 0:
        size = job.size
        seconds = _updates(task, size * world.size, job.updates) if job.updates else _all_reduces(world, size)
    _barrier.wait()
    return seconds


def _all_reduces(world: World, n_bytes: int) -> list[float]:
    import torch

    buffer = torch.ones(n_bytes // 4)
    seconds: list[float] = []
    for _ in range(_WARM + _REPEATS):
        begun = time.perf_counter()
        world.sum(buffer)
        seconds.append(time.perf_counter() - begun)
        buffer.fill_(1.0)
    return seconds[_WARM:]


def _updates(task: Task, global_batch_size: int, updates: int) -> list[float]:
    from largebatch import train

    own = task.recipe or Recipe(256, lr=0.1)
    recipe = own.at(global_batch_size, rule="none", warmup=None)
    recipe = recipe.replace(schedule="constant", duration=f"{updates + _WARM + 1}steps", then=None)
    clock = _Clock(updates + _WARM)
    with suppress(_TimedError):
        train.fit(task, recipe, observers=[clock], checkpoint_every="1e18samples", log_every=1 << 30, progress=False)
    return [b - a for a, b in pairwise(clock.begun[_WARM:])]


class _TimedError(Exception):
    """Enough updates have been timed."""


@final
class _Clock:
    name = "clock"

    def __init__(self, updates: int):
        self._updates = updates
        self.begun: list[float] = []

    def wants(self, update: int) -> Request | None:
        self.begun.append(time.perf_counter())
        if update == self._updates:
            raise _TimedError
        return None

    def see(self, view: View) -> None:
        """Nothing is asked for."""

    def see_epoch(self, view: EpochView) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is kept."""
