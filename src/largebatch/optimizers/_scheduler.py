"""A recipe's learning rate as a torch scheduler, for people's own loops.

The rate is `Timeline.rate`, a pure function of the samples seen before the update, so there is nothing to accumulate and
nothing to lose at a resume. Warmup: Goyal et al. 2017 (arXiv 1706.02677), section 2.2.
"""

from typing import Any, final

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from largebatch.optimizers._multipass import MultiPass
from largebatch.recipe import Recipe, Timeline

__all__ = ["RecipeScheduler", "build_scheduler"]


def build_scheduler(
    optimizer: torch.optim.Optimizer | MultiPass, recipe: Recipe, train_size: int, *, last_update: int = -1
) -> "RecipeScheduler":
    """The schedule and warmup of a recipe, for its optimiser or any torch optimiser.

    Call `step()` once after every update. With gradient accumulation that is after `optimizer.step()`, not after every
    micro-batch: the recipe's batch is the global one, over all micro-batches and ranks.

        for update in range(timeline.total_updates):
            for inputs, targets in micro_batches:
                (loss(model(inputs), targets).sum() / recipe.global_batch_size).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()

    The rate of a parameter group is the recipe's times the group's multiplier: the `lr` it was given, as a share of
    the `lr` of the optimiser (1 where it was given none). The multiplier is kept in the group as "lr_multiplier".

    Args:
        optimizer: its groups' rates are set at once; for SAM and Proximal, those of the inner optimiser.
        recipe: lr, schedule, warmup, duration and global_batch_size count.
        train_size: samples in the training data, which make epochs of updates.
        last_update: the number of the last update that was done, to resume without a state_dict; -1: none yet.

    Raises:
        ValueError: the recipe does not fit the data, or the optimiser has stepped already without a record of the rate
            it started from.
    """
    inner = optimizer.inner if isinstance(optimizer, MultiPass) else optimizer
    return RecipeScheduler(inner, Timeline(recipe, train_size), last_update)


@final
class RecipeScheduler(LRScheduler):
    """Made by `build_scheduler`. `samples` counts those before the next update, `last_epoch` the updates (torch's name)."""

    def __init__(self, optimizer: torch.optim.Optimizer, timeline: Timeline, last_update: int = -1) -> None:
        self.samples = 0
        self._timeline = timeline
        for group in optimizer.param_groups:
            if "lr_multiplier" not in group:
                group["lr_multiplier"] = _multiplier(group, optimizer)
            group["initial_lr"] = timeline.recipe.lr * group["lr_multiplier"]
        super().__init__(optimizer, last_update)

    def step(self, epoch: int | None = None) -> None:
        """Set the rates for the next update. `epoch`, which torch deprecates, would be the number of that update."""
        self.samples = self._timeline.samples_before(self.last_epoch + 1 if epoch is None else epoch)
        super().step(epoch)

    def step_to(self, samples: int) -> None:
        """Set the rates for the update before which this phase has seen so many samples; for loops that count those."""
        self.samples = samples
        self.last_epoch = self._timeline.updates_until(samples)
        self._apply()

    def get_lr(self) -> list[float | Tensor]:
        """The rate of every parameter group at `samples`."""
        rate = self._timeline.rate(self.samples)
        return [rate * (base_lr / self._timeline.recipe.lr) for base_lr in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Two numbers: all else follows from the recipe, the data and the optimiser's groups."""
        return {"last_epoch": self.last_epoch, "samples": self.samples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go where `state_dict` was, rates included: the order in which optimiser and scheduler load does not matter."""
        self.last_epoch, self.samples = state_dict["last_epoch"], state_dict["samples"]
        self._apply()

    def _apply(self) -> None:
        rates = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self._last_lr = rates


def _multiplier(group: dict[str, Any], optimizer: torch.optim.Optimizer) -> float:
    if optimizer.state and "initial_lr" not in group:
        raise ValueError(
            "build_scheduler expected an optimizer that has not stepped, or one saved with its scheduler, got one with "
            "state and no record of the rate it started from: build the scheduler first, then load the state"
        )
    return float(group.get("initial_lr", group["lr"])) / float(optimizer.defaults["lr"])
