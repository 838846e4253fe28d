"""Two batch sizes and the recipe of the small one, as the built-in studies start from them, and what they compare."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from largebatch.comparison import Contrast, Subject
from largebatch.core import data_size, has_batch_norm
from largebatch.recipe import Recipe, Timeline
from largebatch.train import build_model

__all__ = ["Sizes"]

KESKAR_SHARE = 10  # the large batch is a tenth of the training data
LOSS_MARGIN = 0.01  # how much worse would do, where there is no accuracy


@dataclass(frozen=True)
class Sizes:
    """See the file's head.

    Args:
        recipe: at the small batch.
        small, large: batches.
        train_size: samples of the training data.
        modes: of batch norm, in which sharpness is measured: "none" where the network has none.
        has_accuracy: whether the task knows more than its loss.
    """

    recipe: Recipe
    small: int
    large: int
    train_size: int
    modes: tuple[str, ...]
    has_accuracy: bool

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
        modes = ("running", "batch") if has_batch_norm(build_model(task, 0)) else ("none",)
        return cls(recipe, recipe.global_batch_size, wanted, size, modes, "accuracy" in task.metrics)

    def asked(self, contrasts: Iterable[Contrast]) -> tuple[Contrast, ...]:
        """The contrasts, of the test loss where the task has no accuracy."""
        if self.has_accuracy:
            return tuple(contrasts)
        return tuple(
            replace(c, metric="test_loss", margin=None if c.margin is None else LOSS_MARGIN)
            if c.metric == "test_accuracy"
            else c
            for c in contrasts
        )

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
