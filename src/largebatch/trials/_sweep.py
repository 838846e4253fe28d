"""Samples to a target at several batches, each at its own best rate: the steps-to-result of Shallue et al. 2019.

arXiv 1811.03600: fix a goal, tune each batch, take the first step at which the goal is met. Here the goal is a training
loss, as McCandlish et al. 2018 (arXiv 1812.06162) have it; rates are constant and tuned on a seed of their own, so that
the seeds that count were not chosen for being lucky. A run that never met the goal is kept as such. What is done is kept
in `out`, and an interrupted sweep goes on from there.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from largebatch.core import Checkpoint, Task, progress
from largebatch.recipe import Recipe
from largebatch.results import Result, RunFolder, from_zero, positive, refuse, run_digest
from largebatch.trials._descent import descend, examined_part
from largebatch.trials._rates import best_rate

__all__ = ["TUNING_SEED", "Sweep", "Trial", "sweep_batches"]

TUNING_SEED = 1000


@final
@dataclass(frozen=True)
class Trial(Result):
    """One run to the target.

    Args:
        samples: at which the target was first seen to be met, or that were given in vain.
        loss: at the last look.
        is_tuning: whether it served to choose the rate.
    """

    batch_size: int
    lr: float
    seed: int
    samples: int
    loss: float
    reached: bool
    is_tuning: bool


@final
@dataclass(frozen=True)
class Sweep(Result):
    """All runs of a sweep.

    Args:
        target: the training loss that was to be met.
        period: samples between two looks, or a whole update where that is more.
    """

    target: float
    period: int
    trials: tuple[Trial, ...]

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Those measured, in ascending order."""
        return tuple(sorted({trial.batch_size for trial in self.trials if not trial.is_tuning}))

    @property
    def cost_samples(self) -> int:
        """Samples trained on, tuning included."""
        return sum(trial.samples for trial in self.trials)

    def reached(self) -> dict[int, list[float]]:
        """Samples to the target by batch, of the runs that met it."""
        return self._samples(reached=True)

    def missed(self) -> dict[int, list[float]]:
        """Samples given in vain by batch."""
        return self._samples(reached=False)

    def periods(self) -> dict[int, float]:
        """By batch, how long before a value the target may have been met: an update is not divided."""
        return {size: float(max(self.period, size)) for size in self.batch_sizes}

    def rate(self, batch_size: int) -> float:
        """The rate a batch was measured at."""
        return next(trial.lr for trial in self.trials if trial.batch_size == batch_size and not trial.is_tuning)

    def _samples(self, *, reached: bool) -> dict[int, list[float]]:
        return {
            size: [
                float(trial.samples)
                for trial in self.trials
                if trial.batch_size == size and not trial.is_tuning and trial.reached == reached
            ]
            for size in self.batch_sizes
        }


def sweep_batches(
    task: Task,
    recipe: Recipe,
    *,
    batch_sizes: Sequence[int],
    target: float,
    longest: int,
    period: int,
    seeds: Sequence[int] = (0, 1, 2),
    rate: Callable[[int], float] | None = None,
    start: Checkpoint | None = None,
    examined: int = 2048,
    out: str | Path | None = None,
) -> Sweep:
    """Train every batch to the target.

    Args:
        recipe: all but batch, rate, schedule and duration.
        batch_sizes: global, in ascending order.
        target: training loss on the `examined` samples.
        longest: samples after which a run has missed the target.
        period: samples between two looks.
        seeds: that are measured.
        rate: of each batch; None tunes it, on another seed.
        start: where all runs begin; None: at their seed's initial weights.
        out: folder of what is done; None keeps nothing.

    Raises:
        ValueError: numbers out of range, with every mistake; a folder of another sweep.
    """
    _refuse_bad_sweep(batch_sizes, target, longest, period, seeds)
    begun = 0 if start is None else start.samples
    log = _Log(out, {
        "task": task.name, "recipe": recipe.to_json(with_changes=False), "target": target, "longest": longest,
        "period": period, "examined": examined, "start_samples": begun,
    })  # fmt: skip
    data = examined_part(task, examined)

    def run(size: int, lr: float, seed: int, most: int, *, is_tuning: bool) -> Trial:
        kept = log.find(size, lr, seed, is_tuning)
        if kept is not None:
            return kept
        rows = descend(
            task, recipe, batch_size=size, lr=lr, longest=most, seed=seed, start=start, examined=data, period=period,
            target=target,
        )  # fmt: skip
        samples, loss = rows[-1]
        return log.add(Trial(size, lr, seed, samples, loss, loss <= target, is_tuning))

    guess = recipe.at(batch_sizes[0], warmup=None).lr
    with progress("sweep", len(batch_sizes) * len(seeds), "runs") as bar:
        for size in batch_sizes:

            def cost(lr: float, least: float, size: int = size) -> float:
                most = longest if math.isinf(least) else int(least)
                trial = run(size, lr, TUNING_SEED, most, is_tuning=True)
                return trial.samples if trial.reached else math.inf

            guess = best_rate(cost, guess) if rate is None else rate(size)
            for seed in seeds:
                run(size, guess, seed, longest, is_tuning=False)
                bar.update()
    return Sweep(target, period, tuple(log.trials))


@final
class _Log:
    """What is done, in memory and in the folder."""

    def __init__(self, out: str | Path | None, identity: Mapping[str, Any]):
        self._folder = None if out is None else RunFolder(Path(out))
        self.trials: list[Trial] = []
        if self._folder is None:
            return
        digest = run_digest(**identity)
        kept = self._folder.read("sweep.json")
        if kept is not None and kept["digest"] != digest:
            raise ValueError(
                f"{out}: expected the folder of this sweep, got one of another task, recipe, target or period; "
                "choose another folder"
            )
        self._folder.write("sweep.json", {**identity, "digest": digest})
        self.trials = [Trial.from_json(row) for row in self._folder.log()]

    def find(self, size: int, lr: float, seed: int, is_tuning: bool) -> Trial | None:
        wanted = (size, lr, seed, is_tuning)
        return next((t for t in self.trials if (t.batch_size, t.lr, t.seed, t.is_tuning) == wanted), None)

    def add(self, trial: Trial) -> Trial:
        self.trials.append(trial)
        if self._folder is not None:
            self._folder.append([trial.to_json()])
        return trial


def _refuse_bad_sweep(
    batch_sizes: Sequence[int], target: float, longest: int, period: int, seeds: Sequence[int]
) -> None:
    mistakes: list[str] = []
    if not batch_sizes or list(batch_sizes) != sorted(set(batch_sizes)) or min(batch_sizes) < 1:
        mistakes.append(
            f"batch_sizes: expected different sizes of 1 or more, in ascending order, got {list(batch_sizes)}; "
            "for example 64 256 1024"
        )
    if not seeds:
        mistakes.append("seeds: expected one or more, got none; three give an interval")
    mistakes += from_zero("target", target, "a training loss", "take one that a short run reaches")
    mistakes += positive("longest", longest, "the samples after which a run is given up", "for example three epochs")
    mistakes += positive("period", period, "the samples between two looks", "for example a twentieth of what is needed")
    refuse("sweep", mistakes)
