"""What measuring the noise scale costs a training: F1 on Fashion-MNIST, batch 256 and 2048, looking on and off in turns.

In one training blocks of updates with the observer alternate with blocks without, so that each pair of blocks ran one after
the other. The observer finds its cadence first, from what looks cost, and a block is about as long as that. A single update
scatters by a tenth and one in an epoch is followed by an evaluation, so of a block the plain updates and the measured ones
each count as often as they came, times their median. Time is this process's own, of one thread. Beside it the common
way, splitting every step.

    python benchmarks/probe_overhead.py --pairs 20   # six minutes
    python benchmarks/probe_overhead.py --pairs 3    # quicker, and coarser
"""

import argparse
import statistics
import time
from typing import Any, final

import torch
from pairing import machine, tell

from largebatch import tasks, train
from largebatch.core import EpochView, Request, View
from largebatch.noise import NoiseScale
from largebatch.results import Cell, Column, Table

TASK = "fashion-mnist/f1"
BATCHES = (256, 2048)
SHORTEST = 10  # updates in a block


class _EnoughError(Exception):
    """All pairs are timed."""


@final
class Alternating:
    """An observer that is on in one block of updates and off in the next.

    Args:
        noise: what is looked with.
        block: updates in a block; None: as long as the cadence that `noise` finds, or `SHORTEST`.
        pairs: of blocks.
    """

    name = "alternating"

    def __init__(self, noise: NoiseScale, block: int | None, pairs: int):
        self._noise, self._pairs = noise, pairs
        self.block = block
        self.on: list[float] = []
        self.off: list[float] = []
        self._first = 0
        self._begun = 0.0
        self._plain: list[float] = []  # seconds of this block's updates
        self._looked: list[float] = []
        self._looks = False  # at the update that runs now

    def wants(self, update: int) -> Request | None:
        if self.block is None:
            wanted = self._noise.wants(update)
            if self._noise.every is not None:
                self.block, self._first = max(self._noise.every, SHORTEST), update + 3
            return wanted
        place = update - self._first
        now, begun = time.process_time(), self._begun
        self._begun = now
        if place < 0:
            return None
        if place:
            (self._looked if self._looks else self._plain).append(now - begun)
        turn, within = divmod(place, self.block)
        if within == 0:
            self._end(turn)
        is_on = turn % 2 != self._is_late(turn)
        self._looks = is_on and within % (self._noise.every or 1) == 0
        return Request(parts=4) if self._looks else None

    @staticmethod
    def _is_late(turn: int) -> int:
        """Every other pair in reverse order: on off, off on."""
        return 1 - turn // 2 % 2

    def _end(self, turn: int) -> None:
        if turn:
            before = turn - 1
            # Medians, as one update in an epoch is followed by an evaluation.
            seconds = sum(statistics.median(kind) * len(kind) for kind in (self._plain, self._looked) if kind)
            (self.off if before % 2 == self._is_late(before) else self.on).append(seconds)
        self._plain, self._looked = [], []
        if len(self.on) == len(self.off) == self._pairs:
            raise _EnoughError

    def see(self, view: View) -> None:
        self._noise.see(view)

    def see_epoch(self, view: EpochView) -> None:
        self._noise.see_epoch(view)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is kept."""


def timed(batch: int, noise: NoiseScale, block: int | None, pairs: int) -> Alternating:
    """One training, until all pairs are timed."""
    task = tasks.find(TASK)
    assert task.recipe is not None
    recipe = task.recipe.at(batch).replace(duration="1000ep")
    watch = Alternating(noise, block, pairs)
    try:
        train.fit(task, recipe, observers=[watch], checkpoint_every="1e18samples", log_every=1 << 30, progress=False)
    except _EnoughError:
        return watch
    raise RuntimeError("the training ended before the blocks did")


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=8)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    rows: list[list[Cell]] = []
    for batch in BATCHES:
        for name, noise, block in (
            ("NoiseScale()", NoiseScale(), None),
            ("every step in four parts", NoiseScale(every=1), SHORTEST),
        ):
            found = timed(batch, noise, block, pairs)
            ratios = [on / off for on, off in zip(found.on, found.off, strict=True)]
            middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
            rows.append([name, batch, noise.every, found.block, len(ratios), middle, low, high])
            tell(f"{name}, batch {batch}: {middle:.4f} ({low:.4f}-{high:.4f})")
    columns = ["what", Column("batch"), Column("looks at one update in"), Column("updates in a block"), Column("pairs"),
               Column("on ÷ off", format=".4f"), Column("least", format=".4f"), Column("most", format=".4f")]  # fmt: skip
    print(Table(columns, rows).markdown())
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
