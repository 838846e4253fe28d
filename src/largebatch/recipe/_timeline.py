"""Timeline: the arithmetic of one phase on one data set. Which samples an update sees, when, and at which rate.

Everything is a pure function of the update or of the samples seen before it, in constant time: a resumed run asks the
same questions and gets the same answers.
"""

from dataclasses import dataclass
from functools import cached_property

from largebatch.recipe._duration import Duration, duration_reader
from largebatch.recipe._epoch import batch_bounds, in_samples, samples_before, updates_per_epoch, updates_until
from largebatch.recipe._limits import mistakes_for
from largebatch.recipe._mistakes import RecipeError
from largebatch.recipe._recipe import Recipe
from largebatch.recipe._schedule import decay, warmup_rate

__all__ = ["Timeline"]


@dataclass(frozen=True)
class Timeline:
    """One phase of a recipe on `train_size` samples.

    Updates are counted from 0 and samples from the start of the phase. A global batch is never cut short: the phase ends
    with the first update that reaches its duration.

    Args:
        recipe: its own duration, schedule and warmup; `then` is another timeline.
        train_size: samples in the training data.

    Raises:
        ValueError: where the recipe cannot be trained on so many samples, with every mistake.
    """

    recipe: Recipe
    train_size: int

    def __post_init__(self) -> None:
        mistakes = list(mistakes_for(self.recipe, self.train_size))
        if mistakes:
            raise RecipeError("recipe", mistakes)

    @cached_property
    def updates_per_epoch(self) -> int:
        """Batches in one pass over the data."""
        return updates_per_epoch(self.train_size, self.recipe.global_batch_size)

    @cached_property
    def total_updates(self) -> int:
        """Updates in the phase."""
        return self.updates_until(self.duration_samples)

    @cached_property
    def total_samples(self) -> int:
        """Samples seen by the end of the phase: those of whole batches, so `duration_samples` or slightly more."""
        return self.samples_before(self.total_updates)

    @cached_property
    def duration_samples(self) -> float:
        """The recipe's duration in samples: what shares ("dur") are of, and where the schedule ends."""
        return self.resolve(self.recipe.duration)

    @cached_property
    def warmup_samples(self) -> float:
        """Where the rate reaches its peak; 0 without warmup."""
        warmup = self.recipe.warmup
        return 0.0 if warmup.kind == "none" else min(self.resolve(warmup.duration), self.resolve(warmup.at_most))

    @cached_property
    def milestones_samples(self) -> tuple[float, ...]:
        """When a step schedule steps."""
        return tuple(self.resolve(milestone) for milestone in self.recipe.schedule.milestones)

    def resolve(self, duration: Duration | str) -> float:
        """A duration in samples.

        Raises:
            ValueError: for a text that is no duration.
        """
        recipe = self.recipe
        return in_samples(duration_reader(duration), self.train_size, recipe.global_batch_size, recipe.duration)

    def batch_of(self, update: int) -> tuple[int, int, int]:
        """(epoch, start, stop): the positions of an update's samples in its epoch's permutation.

        Raises:
            ValueError: for an update below 0.
        """
        index = _from_0(update) % self.updates_per_epoch
        return self.epoch_of(update), *batch_bounds(self.train_size, self.recipe.global_batch_size, index)

    def epoch_of(self, update: int) -> int:
        """The epoch an update belongs to, counted from 0.

        Raises:
            ValueError: for an update below 0.
        """
        return _from_0(update) // self.updates_per_epoch

    def samples_before(self, update: int) -> int:
        """Samples seen before an update; `samples_before(total_updates)` is `total_samples`.

        Raises:
            ValueError: for an update below 0.
        """
        return samples_before(self.train_size, self.recipe.global_batch_size, _from_0(update))

    def updates_until(self, samples: float) -> int:
        """The fewest updates that have seen at least so many samples: the inverse of `samples_before`."""
        return updates_until(self.train_size, self.recipe.global_batch_size, samples)

    def rate(self, samples: float) -> float:
        """The learning rate of the update before which so many samples were seen."""
        recipe = self.recipe
        share = decay(
            recipe.schedule,
            samples,
            milestones=self.milestones_samples,
            begin_samples=self.warmup_samples,
            end_samples=self.duration_samples,
        )
        return warmup_rate(recipe.warmup, recipe.lr, samples, self.warmup_samples) * share


def _from_0(update: int) -> int:
    if update < 0:
        raise ValueError(
            f"update: expected a number from 0 on, got {update}; updates count from the start of the phase"
        )
    return update
