"""A short training that is watched, and ended by what is seen: the loss on a fixed part of the training data.

The loss is that of the network as it trains (batch statistics): after a few large updates running statistics lag behind, and
their lag is not what is measured. An end in the middle saves the evaluation at the end of `fit`, which would cost more than
many of these trainings.
"""

import math
from collections.abc import Callable
from typing import Any, final

import torch

from largebatch import train
from largebatch.core import Checkpoint, Data, EpochView, Request, Risk, Task, View, data_size, generator
from largebatch.recipe import Recipe

__all__ = ["constant_rate", "descend", "examined_part", "loss_of"]

_NEVER = 1 << 30


def descend(
    task: Task,
    recipe: Recipe,
    *,
    batch_size: int,
    lr: float,
    longest: int,
    seed: int,
    start: Checkpoint | None,
    examined: Data,
    period: int,
    target: float = -math.inf,
) -> list[tuple[int, float]]:
    """Train until the target is met, or for so many samples.

    Args:
        recipe: all but batch, rate, schedule and duration.
        longest: samples after which the next look is the last.
        start: weights and optimiser to start from; None: the initial ones of `seed`.
        examined: on what the loss is taken.
        period: samples between two looks; each look is after a whole update.
        target: loss that ends the training.

    Returns:
        `(samples, loss)` of every look; a loss that is not finite ends the training and is infinite.
    """
    watch = _Watch(task, batch_size, examined, period, lambda seen, loss: loss <= target or seen >= longest)
    # A look may come a period and an update late.
    moved = constant_rate(recipe, batch_size, lr, longest + period + 2 * batch_size)
    try:
        train.fit(
            task, moved, seed=seed, start=start, observers=[watch], checkpoint_every="1e18samples", log_every=_NEVER,
            progress=False,
        )  # fmt: skip
    except _Enough:
        return watch.rows
    raise RuntimeError(f"descent: expected to see enough within {moved.duration}, got {len(watch.rows)} looks")


def examined_part(task: Task, samples: int) -> Data:
    """The same part of the training data for every training of a task."""
    size = data_size(task.train)
    if samples >= size:
        return task.train
    chosen = torch.randperm(size, generator=generator(0, "examined"))[:samples].sort().values
    if isinstance(task.train, tuple):
        return task.train[0][chosen], task.train[1][chosen]
    return torch.utils.data.Subset(task.train, chosen.tolist())


def loss_of(model: torch.nn.Module, task: Task, examined: Data) -> float:
    """Mean loss with batch statistics; infinite where it is not a number."""
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        return math.inf
    value = Risk(model, task.loss, examined, batch_norm="batch", batch_size=data_size(examined)).value()
    return value if math.isfinite(value) else math.inf


def constant_rate(recipe: Recipe, batch_size: int, lr: float, samples: int) -> Recipe:
    """The recipe at another batch, at one rate throughout, for so many samples."""
    moved = recipe.at(batch_size, rule="none" if recipe.optimizer == "lars" else None, warmup=None)
    return moved.replace(lr=lr, schedule="constant", duration=f"{samples}samples", then=None)


class _Enough(Exception):  # noqa: N818 (it is no error)
    """What was wanted has been seen."""


@final
class _Watch:
    name = "descent"

    def __init__(self, task: Task, batch_size: int, examined: Data, period: int, enough: Callable[[int, float], bool]):
        self._task, self._examined, self._enough = task, examined, enough
        self._batch_size, self._period = batch_size, period
        self.rows: list[tuple[int, float]] = []

    def wants(self, update: int) -> Request | None:
        before, after = (updates * self._batch_size // self._period for updates in (update, update + 1))
        return Request(risk=True) if after > before else None

    def see(self, view: View) -> None:
        assert view.risk is not None
        self.rows.append((view.samples, loss_of(view.risk.model, self._task, self._examined)))
        if math.isinf(self.rows[-1][1]) or self._enough(*self.rows[-1]):
            raise _Enough

    def see_epoch(self, view: EpochView) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is kept."""
