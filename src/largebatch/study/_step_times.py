"""Step times measured on this machine, for `plan`: compute at three sizes, all-reduce at five, and how far they overlap.

Compute is timed on one worker alone and on all workers at once, since workers of one machine share its memory; all-reduce
over the process group that training would use. One thread a worker. Every time is that of whole updates of `fit`, from one
to the next, and a median.
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any, Literal, final

from largebatch import plan
from largebatch.core import EpochView, Request, Task, View, World, world_from_environment
from largebatch.recipe import Recipe
from largebatch.results import Result

__all__ = ["StepMeasurement", "measure_steps", "time_updates"]

REDUCED_BYTES = (16_384, 262_144, 1_048_576, 4_194_304, 16_777_216)
_Kind = Literal["alone", "apart", "joined"]
_REPEATS = 15
_WARM = 3


@final
@dataclass(frozen=True)
class StepMeasurement(Result):
    """What was measured and what was fitted to it.

    Args:
        workers: on this machine.
        alone, together: compute on one worker while the others rest, and while all compute.
        network: of an all-reduce over the workers.
        overlap: how far it hides behind the compute; fitted to whole updates at the same three sizes.
        gradient_bytes: of all parameters.
    """

    task: str
    workers: int
    local_batch_sizes: tuple[int, ...]
    alone: plan.ComputeFit
    together: plan.ComputeFit
    network: plan.NetworkFit
    overlap: plan.OverlapFit
    gradient_bytes: float

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
            relative_error=max(compute.residual, self.network.residual),
        )

    def text(self) -> str:
        """In a line."""
        bandwidth = 1e-9 / self.network.seconds_per_byte.value
        return (
            f"{1e3 * self.alone.fixed_seconds.value:.2f} ms + {1e6 * self.alone.seconds_per_sample.value:.1f} µs a sample "
            f"alone, {1e6 * self.together.seconds_per_sample.value:.1f} µs with {self.workers} at once; all-reduce "
            f"{1e6 * self.network.latency_seconds.value:.0f} µs a message, {bandwidth:.2f} GB/s; "
            f"overlap exponent {self.overlap.exponent.value:.2f}"
        )


def measure_steps(
    task: Task, *, local_batch_sizes: Sequence[int] = (64, 128, 256), workers: int = 2, updates: int = 12
) -> StepMeasurement:
    """Measure and fit.

    Args:
        task: a built-in one, or one from a file: each worker loads it by itself.
        local_batch_sizes: three or more.
        workers: 2 or more, of one thread each.
        updates: that are timed at each size.

    Raises:
        ValueError: a task that no worker could find, or fewer than 2 workers.
    """
    if workers < 2:
        raise ValueError(f"workers: expected 2 or more to measure an all-reduce, got {workers}")
    where = task.origin or task.name
    kinds: tuple[_Kind, ...] = ("alone", "apart", "joined")
    jobs = [_Job(kind, size, updates=updates) for kind in kinds for size in local_batch_sizes]
    jobs += [_Job("joined", size, updates=0) for size in REDUCED_BYTES]
    seconds = _on_ranks(where, jobs, workers)
    many = len(local_batch_sizes)
    alone, together, steps = (seconds[i * many : (i + 1) * many] for i in range(3))
    reduced = seconds[3 * many :]
    network = plan.fit_network([workers] * len(REDUCED_BYTES), REDUCED_BYTES, reduced)
    n_bytes = float(4 * sum(p.numel() for p in task.model().parameters()))
    link = plan.Link(1 / network.seconds_per_byte.value, network.latency_seconds.value)
    waits = [float(plan.Network(link).seconds(workers, n_bytes))] * len(steps)
    return StepMeasurement(
        task.name,
        workers,
        tuple(local_batch_sizes),
        plan.fit_compute(local_batch_sizes, alone),
        plan.fit_compute(local_batch_sizes, together),
        network,
        plan.fit_overlap(together, waits, steps),
        n_bytes,
    )


def time_updates(where: str, local_batch_size: int, *, workers: int, updates: int) -> float:
    """Median seconds of an update of `fit` on so many workers of one thread each, the slowest worker's."""
    return _on_ranks(where, [_Job("joined", local_batch_size, updates=updates)], workers)[0]


@dataclass(frozen=True)
class _Job:
    """One thing to time: on the first rank while the others rest, on each rank by itself at once, or on all together.

    Args:
        size: samples of each rank; or bytes of an all-reduce, where there are no updates.
    """

    kind: _Kind
    size: int
    updates: int


def _on_ranks(where: str, jobs: Sequence[_Job], ranks: int) -> list[float]:
    """Seconds of each job, the slowest rank's. Those that are joined come last.

    Raises:
        RuntimeError: what one rank failed of; the others were waiting for it.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(ranks)  # no rank takes two tasks: it waits here until every rank has one
    with (
        tempfile.TemporaryDirectory() as scratch,
        ProcessPoolExecutor(ranks, context, initializer=_meet_at, initargs=(barrier,)) as pool,
    ):
        meeting = f"file://{Path(scratch) / 'meet'}"
        running = [pool.submit(_rank, rank, ranks, meeting, where, list(jobs)) for rank in range(ranks)]
        errors = [error for future in running if (error := future.exception()) is not None]
    if errors:
        first = next((error for error in errors if not isinstance(error, BrokenBarrierError)), errors[0])
        raise RuntimeError(f"measurement on {ranks} worker(s): a worker failed: {type(first).__name__}: {first}")
    return [max(times) for times in zip(*(future.result() for future in running), strict=True)]


_barrier: Barrier
"""Of the ranks that are measured; a process has it from its start, as it can be sent in no other way."""


def _meet_at(barrier: Barrier) -> None:
    global _barrier  # noqa: PLW0603
    _barrier = barrier


def _rank(rank: int, ranks: int, meeting: str, where: str, jobs: list[_Job]) -> list[float]:
    """Seconds of each job; 0 for what others do alone."""
    os.environ.update(
        WORLD_SIZE="1", RANK=str(rank), LOCAL_RANK=str(rank), OMP_NUM_THREADS="1", LARGEBATCH_RENDEZVOUS=meeting
    )
    try:
        import torch

        from largebatch import tasks

        torch.set_num_threads(1)
        task = tasks.find(where)
        times = [_timed(job, task, None, rank) for job in jobs if job.kind != "joined"]
        if ranks > 1:
            os.environ["WORLD_SIZE"] = str(ranks)
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        with world_from_environment(torch.device("cpu")) as world:
            times += [_timed(job, task, world, rank) for job in jobs if job.kind == "joined"]
        return times
    except BaseException:
        _barrier.abort()
        raise


def _timed(job: _Job, task: Task, world: World | None, rank: int) -> float:
    """All ranks begin together, and none goes on before all have ended."""
    _barrier.wait()
    seconds = 0.0
    if job.kind != "alone" or rank == 0:
        size = 1 if world is None else world.size
        seconds = (
            _update_seconds(task, job.size * size, job.updates) if job.updates else _all_reduce_seconds(world, job.size)
        )
    _barrier.wait()
    return seconds


def _all_reduce_seconds(world: Any, n_bytes: int) -> float:
    import torch

    buffer = torch.ones(n_bytes // 4)
    seconds: list[float] = []
    for _ in range(_WARM + _REPEATS):
        begun = time.perf_counter()
        world.sum(buffer)
        seconds.append(time.perf_counter() - begun)
        buffer.fill_(1.0)
    return statistics.median(seconds[_WARM:])


def _update_seconds(task: Task, global_batch_size: int, updates: int) -> float:
    from largebatch import train

    own = task.recipe or Recipe(256, lr=0.1)
    recipe = own.at(global_batch_size, rule="none", warmup=None)
    recipe = recipe.replace(schedule="constant", duration=f"{updates + _WARM + 1}steps", then=None)
    clock = _Clock(updates + _WARM)
    with suppress(_TimedError):
        train.fit(task, recipe, observers=[clock], checkpoint_every="1e18samples", log_every=1 << 30, progress=False)
    return statistics.median(b - a for a, b in zip(clock.begun[_WARM:-1], clock.begun[_WARM + 1 :], strict=True))


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
