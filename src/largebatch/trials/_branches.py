"""Branched training: from one checkpoint the same samples at several batches, each a different way of spending them.

Merrill et al. 2025 (arXiv 2505.23971): from a checkpoint at batch B, train branches at k·B on the same number of tokens,
the rate scaled by a rule, and see up to which k the loss keeps up. Branches start with the optimiser's state too, and are
looked at in the same eight places, whatever their batch. What the losses say is judged in the room `probe`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

from largebatch.core import Checkpoint, Task, progress, swap_batchnorm
from largebatch.recipe import Recipe
from largebatch.results import Result, positive, refuse
from largebatch.train import build_model
from largebatch.trials._descent import descend, examined_part, loss_of

__all__ = ["LOOKS", "Branch", "Branches", "branch_batches"]

LOOKS = 8
"""At a branch; so the largest batch gets eight updates."""


@final
@dataclass(frozen=True)
class Branch(Result):
    """One branch: the training loss on its way, `(samples, loss)` at each look."""

    batch_size: int
    lr: float
    seed: int
    path: tuple[tuple[float, float], ...]


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
        return round(sum(branch.path[-1][0] for branch in self.branches))

    def paths(self) -> dict[int, list[tuple[tuple[float, float], ...]]]:
        """By batch, one for each seed."""
        sizes = sorted({branch.batch_size for branch in self.branches})
        return {size: [b.path for b in self.branches if b.batch_size == size] for size in sizes}


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
        batch_sizes: global, of at most an eighth of `samples`.
        samples: of each branch.
        seeds: orders of the data.
        rate: of each batch; None: by the recipe's rule.

    Raises:
        ValueError: no branch, or batches larger than what a branch is given.
    """
    mistakes = positive("samples", samples, "the samples of a branch", "for example eight times the largest batch")
    if not batch_sizes or not seeds:
        mistakes.append(f"branches: expected batches and seeds, got {len(batch_sizes)} and {len(seeds)}; give some")
    if batch_sizes and LOOKS * max(batch_sizes) > samples > 0:
        mistakes.append(
            f"batch_sizes: expected at most {samples // LOOKS}, an eighth of the {samples} samples of a branch, got "
            f"{max(batch_sizes)}; give longer branches or smaller batches"
        )
    refuse("branches", mistakes)
    data = examined_part(task, examined)
    rates = (lambda size: recipe.at(size, warmup=None).lr) if rate is None else rate
    model = build_model(task, 0)
    model.load_state_dict(start.model_state())
    swap_batchnorm(model, recipe.ghost_batch_size)  # as branches are trained, and looked at
    begun = loss_of(model, task, data)
    found: list[Branch] = []
    with progress("branches", len(batch_sizes) * len(seeds), "branches") as bar:
        for size in batch_sizes:
            for seed in seeds:
                lr = rates(size)
                rows = descend(
                    task, recipe, batch_size=size, lr=lr, longest=samples, seed=seed, start=start, examined=data,
                    period=samples // LOOKS,
                )  # fmt: skip
                path = tuple((float(seen), loss) for seen, loss in rows)
                found.append(Branch(size, lr, seed, path))
                bar.update()
    return Branches(start.samples, begun, samples, tuple(found))
