"""Updates of `fit` and all-reduces, timed on processes of one thread each: by one alone, by each at once, by all together.

Every time is that of a whole update, from one to the next. Jobs take turns in rounds, so that a machine that drifts drifts
for all of them.
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
from itertools import chain, pairwise
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import BrokenBarrierError
from typing import Any, Literal, final

from largebatch.core import EpochView, Request, Task, View, World, world_from_environment
from largebatch.recipe import Recipe

__all__ = ["WARM_UPDATES", "Job", "Kind", "Times", "on_ranks", "recipe_of"]

Kind = Literal["alone", "apart", "joined"]
_REPEATS = 15
_NORMAL = 1.4826  # standard deviation ÷ median absolute deviation of Normals
_WARM = 3
WARM_UPDATES = _WARM + 1
"""Updates of a round that are not timed: the first ones, and one that the clock ends in."""


def recipe_of(task: Task) -> Recipe:
    """The task's own recipe, or any."""
    return task.recipe or Recipe(256, lr=0.1)


@dataclass(frozen=True)
class Job:
    """One thing to time: on the first rank while the others rest, on each rank by itself at once, or on all together.

    Args:
        size: samples of each rank; or bytes of an all-reduce, where there are no updates.
        updates: that are timed in a round.
    """

    kind: Kind
    size: int
    updates: int


@dataclass(frozen=True)
class Times:
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


def on_ranks(where: str, jobs: Sequence[Job], ranks: int, rounds: int) -> dict[Job, Times]:
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
    return {job: Times([[row[job] for row in rank] for rank in found]) for job in jobs}


_barrier: Barrier
"""Of the ranks that are measured; a process has it from its start, as it can be sent in no other way."""


def _meet_at(barrier: Barrier) -> None:
    global _barrier  # noqa: PLW0603
    _barrier = barrier


def _rank(rank: int, scratch: str, where: str, jobs: list[Job], rounds: int) -> list[dict[Job, list[float]]]:
    """By round: seconds of each update; none of what others do alone."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), OMP_NUM_THREADS="1")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        import torch

        from largebatch import tasks

        torch.set_num_threads(1)
        task = tasks.find(where)
        found: list[dict[Job, list[float]]] = []
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


def _timed(job: Job, task: Task, world: World, rank: int) -> list[float]:
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

    recipe = recipe_of(task).at(global_batch_size, rule="none", warmup=None)
    recipe = recipe.replace(schedule="constant", duration=f"{updates + WARM_UPDATES}steps", then=None)
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
