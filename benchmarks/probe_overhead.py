"""What measuring the noise scale costs a training: F1 on Fashion-MNIST, batch 256 and 2048, with and without.

Two trainings of one recipe take turns, update by update: one measures, the other does not. Whatever else they do (an
evaluation at the end of an epoch) both do at the same updates, and what the machine does to one update it does to its
twin some milliseconds later; blocks of updates one after the other scatter by 5 to 8 %. A block is as many updates as
lie between two looks, with one look in it (or a few, so that there are ten). Where its memory lies makes one training a
percent faster than the other, so they change parts after each block: a pair is two blocks, and its ratio √(a₀/b₁ · a₁/b₀) of
seconds with looks, a, and without, b, of the two trainings. How often it looks, `NoiseScale` has found before by itself,
from what looks cost. Time is the thread's own, and there is one thread each. Beside it the common way, splitting
every step.

    python benchmarks/probe_overhead.py --pairs 20   # a quarter of an hour
    python benchmarks/probe_overhead.py --pairs 3    # quicker, and coarser
"""

import argparse
import math
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, final

import torch
from pairing import machine, tell

from largebatch import tasks, train
from largebatch.core import EpochView, Observer, Request, View
from largebatch.noise import NoiseScale
from largebatch.results import Cell, Column, Table

TASK = "fashion-mnist/f1"
BATCHES = (256, 2048)
SHORTEST = 10  # updates in a block
WAIT_SECONDS = 60.0


class _EnoughError(Exception):
    """All is timed."""


@final
class Hooked:
    """An observer that is `noise` at some updates and nothing at the others.

    Args:
        before: is told the number of the update, 0 first, and says whether to measure.
    """

    name = "hooked"

    def __init__(self, noise: NoiseScale, before: Callable[[int], bool]):
        self._noise, self._before = noise, before

    def wants(self, update: int) -> Request | None:
        return self._noise.wants(update) if self._before(update) else None

    def see(self, view: View) -> None:
        self._noise.see(view)

    def see_epoch(self, view: EpochView) -> None:
        self._noise.see_epoch(view)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is kept."""


@final
class Turns:
    """Two threads that take turns at each update, and how long each update took.

    Args:
        block: updates; 0 measures in the first of two blocks, 1 in the second.
        blocks: that each is to time.
    """

    def __init__(self, block: int, blocks: int):
        self._block, self._updates = block, block * blocks
        self._mine = threading.Semaphore(1), threading.Semaphore(0)
        self._begun = [0.0, 0.0]
        self.seconds: tuple[list[float], list[float]] = [], []

    def before(self, who: int) -> Callable[[int], bool]:
        """What to call before each update of one of them."""

        def take(update: int) -> bool:
            if update:
                self.seconds[who].append(time.thread_time() - self._begun[who])
                self._mine[1 - who].release()
            if update == self._updates:
                raise _EnoughError
            if not self._mine[who].acquire(timeout=WAIT_SECONDS):
                raise RuntimeError("the other training has ended")
            self._begun[who] = time.thread_time()
            return update // self._block % 2 == who

        return take

    def sums(self, who: int) -> list[float]:
        """Seconds of each block of one of them."""
        seconds = self.seconds[who]
        return [sum(seconds[start : start + self._block]) for start in range(0, len(seconds), self._block)]


def trained(batch: int, observer: Observer) -> None:
    """Train until the observer has enough."""
    torch.set_num_threads(1)  # each thread has a count of its own
    task = tasks.find(TASK)
    assert task.recipe is not None
    recipe = task.recipe.at(batch).replace(duration="1000ep")
    try:
        train.fit(task, recipe, observers=[observer], checkpoint_every="1e18samples", log_every=1 << 30, progress=False)
    except _EnoughError:
        return
    raise RuntimeError("the training ended before the blocks did")


def cadence(batch: int) -> int:
    """How many updates `NoiseScale` lets pass from look to look."""
    noise = NoiseScale()

    def stop(update: int) -> bool:
        if noise.every is not None:
            raise _EnoughError
        return True

    trained(batch, Hooked(noise, stop))
    assert noise.every is not None
    return noise.every


def block_of(every: int) -> int:
    """Updates in a block: as many looks in each."""
    return every * -(-SHORTEST // every)


def ratios(batch: int, every: int, pairs: int) -> list[float]:
    """Seconds with looks ÷ without, of each pair of blocks; the first pair warms up and does not count."""
    turns = Turns(block_of(every), blocks=2 * (pairs + 1))
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(trained, batch, Hooked(NoiseScale(every=every), turns.before(who))) for who in (0, 1)]
    if errors := [error for future in both if isinstance(error := future.exception(), Exception)]:
        raise ExceptionGroup("a training ended early", errors)
    first, second = turns.sums(0), turns.sums(1)
    return [math.sqrt(first[i] / second[i] * second[i + 1] / first[i + 1]) for i in range(2, 2 * (pairs + 1), 2)]


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=8)
    pairs = parser.parse_args().pairs
    if pairs < 2:
        parser.error(f"--pairs: expected at least 2, got {pairs}: one has no standard error")
    torch.set_num_threads(1)
    rows: list[list[Cell]] = []
    for batch in BATCHES:
        for name, every in (("NoiseScale()", cadence(batch)), ("every step in four parts", 1)):
            found = ratios(batch, every, pairs)
            middle, low, high = statistics.median(found), min(found), max(found)
            error = statistics.stdev(found) / len(found) ** 0.5
            rows.append([name, batch, every, block_of(every), pairs, middle, low, high, error])
            tell(f"{name}, batch {batch}: {middle:.4f} ({low:.4f}-{high:.4f}), the mean ± {error:.4f}")
    columns = ["what", Column("batch"), Column("looks at one update in"), Column("updates in a block"), Column("pairs"),
               Column("on ÷ off, median", format=".4f"), Column("least", format=".4f"), Column("most", format=".4f"),
               Column("standard error of the mean", format=".4f")]  # fmt: skip
    print(Table(columns, rows).markdown())
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
