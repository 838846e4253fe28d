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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from largebatch import plan
from largebatch.core import EpochView, Request, Task, View, world_from_environment
from largebatch.recipe import Recipe
from largebatch.results import Result

__all__ = ["StepMeasurement", "measure_steps", "time_updates"]

REDUCED_BYTES = (16_384, 262_144, 1_048_576, 4_194_304, 16_777_216)
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
    jobs = [{"size": size, "updates": updates} for size in local_batch_sizes]
    alone = [max(row) for row in _on_ranks(where, jobs, ranks=1, joined=False)]
    together = [max(row) for row in _on_ranks(where, jobs, ranks=workers, joined=False)]
    reduced = [max(row) for row in _on_ranks(where, [{"bytes": n} for n in REDUCED_BYTES], ranks=workers, joined=True)]
    steps = [max(row) for row in _on_ranks(where, jobs, ranks=workers, joined=True)]
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
    return max(_on_ranks(where, [{"size": local_batch_size, "updates": updates}], ranks=workers, joined=True)[0])


def _on_ranks(where: str, jobs: Sequence[dict[str, int]], *, ranks: int, joined: bool) -> list[list[float]]:
    """Each job on every rank at once: seconds, by job and rank."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch:
        queue = context.SimpleQueue()
        environment = {
            "WORLD_SIZE": str(ranks if joined else 1),
            "LARGEBATCH_RENDEZVOUS": f"file://{Path(scratch) / 'meet'}",
        }
        barrier = context.Barrier(ranks)
        processes = [
            context.Process(target=_rank, args=(rank, environment, (where, list(jobs)), barrier, queue))
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        found = dict(queue.get() for _ in processes)
        for process in processes:
            process.join()
    bad = [value for value in found.values() if isinstance(value, str)]
    if bad:
        raise RuntimeError(f"measurement on {ranks} worker(s): a worker failed: {bad[0]}")
    return [list(times) for times in zip(*(found[rank] for rank in range(ranks)), strict=True)]


def _rank(
    rank: int, environment: dict[str, str], work: tuple[str, list[dict[str, int]]], barrier: Any, queue: Any
) -> None:
    where, jobs = work
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank), OMP_NUM_THREADS="1")
    if environment["WORLD_SIZE"] != "1":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        import torch

        from largebatch import tasks

        torch.set_num_threads(1)
        task = tasks.find(where)
        times: list[float] = []
        with world_from_environment(torch.device("cpu")) as world:
            for job in jobs:
                barrier.wait()
                if "bytes" in job:
                    times.append(_all_reduce_seconds(world, job["bytes"]))
                else:
                    times.append(_update_seconds(task, job["size"] * world.size, job["updates"]))
        queue.put((rank, times))
    except BaseException as error:
        queue.put((rank, f"{type(error).__name__}: {error}"))
        barrier.abort()


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
