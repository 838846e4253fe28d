"""Branched training: from one checkpoint the same samples at several batches, each a different way of spending them.

Merrill et al. 2025 (arXiv 2505.23971): from a checkpoint at batch B, train branches at k·B on the same number of tokens,
the rate scaled by a rule, and see up to which k the loss keeps up. Branches start with the optimiser's state too. What the
losses say is judged in the room `probe`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from largebatch.core import Checkpoint, Task, progress
from largebatch.recipe import Recipe
from largebatch.results import Result, positive, refuse
from largebatch.study._descent import constant_rate, descend, examined_part, loss_of
from largebatch.train import build_model

__all__ = ["Branch", "Branches", "branch_batches"]


@final
@dataclass(frozen=True)
class Branch(Result):
    """One branch: the training loss it ended with."""

    batch_size: int
    lr: float
    seed: int
    samples: int
    loss: float


@final
@dataclass(frozen=True)
class Branches(Result):
    """Branches from one checkpoint.

    Args:
        start_samples, start_loss: of the checkpoint.
        samples: that each branch was trained on, or the next whole update.
    """

    start_samples: int
    start_loss: float
    samples: int
    branches: tuple[Branch, ...]

    @property
    def cost_samples(self) -> int:
        """Samples trained on, without the trunk."""
        return sum(branch.samples for branch in self.branches)

    def losses(self) -> dict[int, list[float]]:
        """By batch, one for each seed."""
        sizes = sorted({branch.batch_size for branch in self.branches})
        return {size: [b.loss for b in self.branches if b.batch_size == size] for size in sizes}

    def spent(self) -> dict[int, int]:
        """By batch, samples of one branch."""
        return {branch.batch_size: branch.samples for branch in self.branches}


def branch_batches(
    task: Task,
    recipe: Recipe,
    start: Checkpoint,
    *,
    batch_sizes: Sequence[int],
    samples: int,
    seeds: Sequence[int] = (0, 1),
    rate: Callable[[int], float] | None = None,
    examined: int = 2048,
) -> Branches:
    """Train the branches.

    Args:
        recipe: of the trunk, at its batch and its rate there.
        start: the checkpoint.
        batch_sizes: global; each divides `samples`, or nearly.
        samples: of each branch.
        seeds: orders of the data.
        rate: of each batch; None: by the recipe's rule.

    Raises:
        ValueError: no branch, or batches larger than what a branch is given.
    """
    mistakes = positive("samples", samples, "the samples of a branch", "for example four times the largest batch")
    if not batch_sizes or not seeds:
        mistakes.append(f"branches: expected batches and seeds, got {len(batch_sizes)} and {len(seeds)}; give some")
    if batch_sizes and max(batch_sizes) > samples > 0:
        mistakes.append(
            f"batch_sizes: expected at most the {samples} samples of a branch, got {max(batch_sizes)}; "
            "give longer branches or smaller batches"
        )
    refuse("branches", mistakes)
    data = examined_part(task, examined)
    rates = (lambda size: recipe.at(size, warmup=None).lr) if rate is None else rate
    model = build_model(task, 0)
    model.load_state_dict(start.model_state())
    begun = loss_of(model, task, data)
    found: list[Branch] = []
    with progress("branches", len(batch_sizes) * len(seeds), "branches") as bar:
        for size in batch_sizes:
            for seed in seeds:
                lr = rates(size)
                rows = descend(
                    task, constant_rate(recipe, size, lr, samples), seed=seed, start=start, examined=data,
                    period=samples, enough=lambda seen, _: seen >= samples,
                )  # fmt: skip
                found.append(Branch(size, lr, seed, *rows[-1]))
                bar.update()
    return Branches(start.samples, begun, samples, tuple(found))
