"""What both trainers' callbacks are given, and what they do between two updates. No mathematics: that is elsewhere."""

import sys
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from largebatch.check import CheckResult, Watch
from largebatch.core import commit_statistics, current_world, has_batch_norm, pending_statistics, swap_batchnorm
from largebatch.noise import NoiseScale
from largebatch.recipe import Recipe
from largebatch.train import build_scheduler

__all__ = ["Conductor", "Parts"]


@dataclass(frozen=True)
class Parts:
    """What a callback brings into a trainer; each part works without the others.

    Args:
        recipe: its schedule and warmup set the rate of every update, in place of the trainer's own scheduler.
        ghost_batch_size: every batch norm becomes ghost batch norm of so many samples, whose running statistics move once
            per update, over all ranks.
        noise: is fed with the gradients of micro-batches and ranks, of which an update needs at least two.
        check: the first update is held against its reference once, and a warning tells what is wrong.
    """

    recipe: Recipe | None = None
    ghost_batch_size: int | None = None
    noise: NoiseScale | None = None
    check: bool = False


@final
class Conductor:
    """Carries the parts out: `prepare` before the trainer wraps the model, `begin` before training, `updated` after "
    "each update."""

    def __init__(self, parts: Parts):
        self.parts = parts
        self.checked: CheckResult | None = None
        self._model: nn.Module | None = None
        self._scheduler: Any = None
        self._watch: Watch | None = None
        self._noise: Any = None

    def prepare(self, model: nn.Module) -> None:
        """Swap batch norm; parameters and names of the state_dict stay.

        Raises:
            ValueError: there is no batch norm to replace.
        """
        self._model = model
        if self.parts.ghost_batch_size is None:
            return
        if not has_batch_norm(model):
            raise ValueError("ghost_batch_size: expected a model with batch norm, got none; leave it None")
        swap_batchnorm(model, self.parts.ghost_batch_size, commit="update")

    def begin(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        train_size: int,
        hooked: tuple[Any, Any] | None = None,
    ) -> Watch | None:
        """Take over the rate and the noise scale; returns the watch of the first-step check, for the caller to aim.

        Args:
            model: as the trainer calls it, wrapped or not.
            hooked: what to hook for passes and for steps, where these are not the model's and the optimizer's own.
        """
        if hasattr(model, "broadcast_buffers") and self.parts.ghost_batch_size is not None:
            model.broadcast_buffers = False  # pyright: ignore  # pending statistics are summed instead
        if self.parts.recipe is not None:
            self._scheduler = build_scheduler(optimizer, self.parts.recipe, train_size)
        if self.parts.noise is not None:
            self._noise = self.parts.noise.watch(*(hooked or (model, optimizer)), world=current_world())
        if self.parts.check:
            self._watch = Watch()
        return self._watch

    def updated(self) -> None:
        """After each optimizer step, on every rank."""
        if self.parts.ghost_batch_size is not None and self._model is not None:
            commit_statistics(self._model, current_world().sum(pending_statistics(self._model)))
        if self._scheduler is not None:
            self._scheduler.step()
        if self._watch is not None and self._watch.updates:  # a GradScaler may have skipped the step
            self._judge(self._watch)

    def end(self) -> None:
        """Take all hooks away; the check has its last word."""
        if self._noise is not None:
            self._noise.close()
        if self._watch is not None:
            self._judge(self._watch)

    def abandon(self) -> None:
        """Take all hooks away, after an error: the other ranks may be elsewhere."""
        if self._noise is not None:
            self._noise.close()
        if self._watch is not None:
            self._watch.close()

    def _judge(self, watch: Watch) -> None:
        self.checked, self._watch = watch.finish(), None
        if not self.checked.passed and current_world().is_first:
            sys.stderr.write(f"largebatch check of the first update: {self.checked.text()}")
