"""A Lightning callback. Lightning computes gradients inside the optimizer's step, so hooks on that step come too early."""

from collections import OrderedDict
from typing import Any, final

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from largebatch.check import CheckResult
from largebatch.integrations._parts import Conductor, Parts

__all__ = ["lightning_callback"]


def lightning_callback(parts: Parts) -> Any:
    """A `lightning.pytorch.Callback` that brings `parts` into a Trainer, with automatic optimisation and one optimizer.

        callback = lightning_callback(Parts(recipe=recipe, ghost_batch_size=32, noise=noise, check=True))
        lightning.Trainer(callbacks=[callback]).fit(module, loader)
        callback.checked                        # the CheckResult of the first update

    Raises:
        ModuleNotFoundError: Lightning is not installed.
        ValueError: when training starts: a scheduler beside a recipe, several optimizers, or no batch norm.
    """
    try:
        from lightning.pytorch import Callback
    except ModuleNotFoundError:
        raise ModuleNotFoundError("lightning_callback needs Lightning: pip install 'largebatch[lightning]'") from None

    return type("LargeBatch", (_Hooks, Callback), {})(parts)


class _Hooks:
    """The methods of a Lightning callback; which base class they come to stand on is known when Lightning is."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._conductor = Conductor(parts)
        self._hooked: tuple[_Passes, _Steps] | None = None
        self._done = 0

    @property
    def checked(self) -> "CheckResult | None":
        """The verdict on the first update."""
        return self._conductor.checked

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self._conductor.prepare(pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        _refuse(trainer, self._parts)
        optimizer, train_size = trainer.optimizers[0], len(trainer.train_dataloader.dataset)
        self._hooked = (_Passes(), _Steps(optimizer)) if self._parts.noise is not None else None
        watch = self._conductor.begin(trainer.strategy.model, optimizer, train_size, self._hooked)
        if watch is not None:
            watch.lightning(pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._hooked is not None:
            self._hooked[0].begin(batch)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        if self._hooked is not None:
            self._hooked[1].before()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step > self._done:
            self._done = trainer.global_step
            if self._hooked is not None:
                self._hooked[1].after()
            self._conductor.updated()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._conductor.abandon()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._conductor.end()


def _refuse(trainer: Any, parts: Parts) -> None:
    if len(trainer.optimizers) != 1:
        raise ValueError(f"configure_optimizers: expected one optimizer, got {len(trainer.optimizers)}")
    if parts.recipe is not None and trainer.lr_scheduler_configs:
        raise ValueError(
            "configure_optimizers: expected no lr_scheduler beside a recipe, whose schedule sets the rate, got one; "
            "return the optimizer alone"
        )


@final
class _Passes:
    """A model for those who count its passes: Lightning calls `training_step` and not the model."""

    def __init__(self) -> None:
        self._hooks: OrderedDict[int, Any] = OrderedDict()

    def register_forward_pre_hook(self, hook: Any, *, with_kwargs: bool) -> Any:
        return _registered(self._hooks, hook)

    def begin(self, batch: Any) -> None:
        tensors = tuple(leaf for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor))
        for hook in self._hooks.values():
            hook(None, tensors, {})


@final
class _Steps:
    """An optimiser for those who hook its steps, with the hooks called when Lightning has the gradients."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self._optimizer = optimizer
        self._before: OrderedDict[int, Any] = OrderedDict()
        self._after: OrderedDict[int, Any] = OrderedDict()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)

    def register_step_pre_hook(self, hook: Any) -> Any:
        return _registered(self._before, hook)

    def register_step_post_hook(self, hook: Any) -> Any:
        return _registered(self._after, hook)

    def before(self) -> None:
        for hook in self._before.values():
            hook(self._optimizer, (), {})

    def after(self) -> None:
        for hook in self._after.values():
            hook(self._optimizer, (), {})


def _registered(hooks: OrderedDict[int, Any], hook: Any) -> RemovableHandle:
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    return handle
