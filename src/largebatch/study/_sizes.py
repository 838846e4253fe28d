"""Two batch sizes and the recipe of the small one, as the built-in studies start from them."""

from dataclasses import dataclass

from largebatch.core import data_size
from largebatch.recipe import Recipe, Timeline
from largebatch.study._subject import Subject

__all__ = ["Sizes"]

KESKAR_SHARE = 10  # the large batch is a tenth of the training data


@dataclass(frozen=True)
class Sizes:
    """See the file's head.

    Args:
        recipe: at the small batch.
        small, large: batches.
        train_size: samples of the training data.
    """

    recipe: Recipe
    small: int
    large: int
    train_size: int

    @classmethod
    def of(cls, subject: Subject, small: int | None, large: int | None, duration: str | None) -> "Sizes":
        """Those asked for; by default the task's own recipe and a tenth of the training data.

        Raises:
            ValueError: a task without a recipe, or batches out of order.
        """
        task = subject.load()
        if task.recipe is None:
            raise ValueError(f"task {task.name}: brings no recipe; give it one: Task(…, recipe=Recipe(256, lr=0.1))")
        size = data_size(task.train)
        tuned = task.recipe if duration is None else task.recipe.replace(duration=duration)
        recipe = tuned.at(tuned.global_batch_size if small is None else small)
        wanted = max(2, size // KESKAR_SHARE) if large is None else large
        if not recipe.global_batch_size < wanted <= size:
            raise ValueError(
                f"large: expected more than the small batch of {recipe.global_batch_size} and at most the {size} samples, "
                f"got {wanted}; give --large"
            )
        return cls(recipe, recipe.global_batch_size, wanted, size)

    @property
    def epochs(self) -> float:
        """Of the recipe."""
        return Timeline(self.recipe, self.train_size).duration_samples / self.train_size

    @property
    def keskar_adam(self) -> Recipe:
        """Keskar et al.'s protocol (2017, arXiv 1609.04836, section 2) at the small batch: defaults, statistics of all."""
        return Recipe(
            self.small, lr=1e-3, optimizer="adam", weight_decay=0.0, schedule="constant", ghost_batch_size=None,
            duration=self.recipe.duration, precision=self.recipe.precision,
        )  # fmt: skip
