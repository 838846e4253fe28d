"""The recorder: one process's own account of its updates, from hooks that any loop runs into.

A *pass* is a forward pass of the watched module whose output is later differentiated; the passes since the last step are the
micro-batches of an update. An update begins at the first optimizer step after them (several optimizers may step) and ends
with the next pass. Passes are replayed before the step, with their inputs, random state, mode and autocast as they were.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from largebatch.core import current_world
from largebatch.recording._clipping import ClippingWatch
from largebatch.recording._extent import Extent
from largebatch.recording._frameworks import frameworks_watched
from largebatch.recording._hooks import Hook
from largebatch.recording._optimizer_state import (
    OptimizerLog,
    first_steps,
    has_trust_ratio,
    when_differentiated,
    will_skip,
)
from largebatch.recording._rounding import Rounding
from largebatch.replay import (
    Coordinates,
    Pass,
    Reference,
    SampleLog,
    StepLoss,
    begin_pass,
    is_sharded,
    listen,
    replaced,
    replay,
)

__all__ = ["Enough", "Recorder"]

SHARDED = (
    "the parameters are sharded over the workers (FSDP), so that none of them has a gradient to hold against a reference; "
    "check the loop with DistributedDataParallel in its place"
)


class Enough(BaseException):
    """The recorder has seen what it needs; not an Exception, so that the user's own handlers let it pass."""


@final
class Recorder:
    """Watches this process while `installed`; `record()` is what it saw, of plain data and tensors.

    Args:
        updates: watched at most, before loaders end their epoch early.
        gradients: of the first updates that are replayed; those at the end of the epoch are too.
        on_progress: told (updates, micro-batches of the present one) as they happen.
        stops: end the loop by `Enough` once enough was seen, and find trainers; else it runs on as if nobody watched, and
            the reference has to be told.
    """

    def __init__(
        self,
        updates: int = 100,
        gradients: int = 8,
        on_progress: Callable[[int, int], None] | None = None,
        *,
        stops: bool = True,
    ):
        self._extent = Extent(updates, gradients, stops=stops)
        self._stops = stops
        self._on_progress = on_progress or (lambda updates, passes: None)
        self._samples = SampleLog()
        self._reference: Reference | None = None
        self._coordinates: Coordinates | None = None
        self._optimizers = OptimizerLog()
        self._window: list[Pass] = []
        self._updates: list[dict[str, Any]] = []
        self._is_open = False
        self._is_replaying = False
        self._pending: Pass | None = None
        self._steps = 0
        gradient = lambda: self._coordinates and self._coordinates.present_gradient()  # noqa: E731
        self._clipping = ClippingWatch(lambda: len(self._window), gradient, self._optimizers.clipped)
        self._rounding = Rounding()
        self._previous: Tensor | None = None
        self._first: dict[str, Tensor] = {}
        self._first_steps: list[dict[str, Any]] = []
        self._hooks: list[Any] = []
        self._problem = ""
        self._world_size = 1

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, this process is watched; afterwards it is as before."""
        with ExitStack() as stack:
            stack.enter_context(listen(self))
            stack.enter_context(self._samples.installed())
            if self._stops:
                stack.enter_context(frameworks_watched(self))
            stack.enter_context(self._clipping.installed())
            stack.enter_context(self._rounding.installed())
            stack.enter_context(self._optimizers.installed(lambda: len(self._window)))
            stack.enter_context(replaced(torch.amp.GradScaler, "step", self._scaler_step))
            self._hooks.append(register_optimizer_step_pre_hook(cast(Any, self._before_step)))
            self._hooks.append(register_optimizer_step_post_hook(cast(Any, self._after_step)))
            try:
                yield
            finally:
                self._close()
                for hook in self._hooks:
                    hook.remove()

    @property
    def updates(self) -> int:
        """Updates so far; the last one may still go on, by another optimizer's step."""
        return len(self._updates)

    @property
    def device(self) -> torch.device:
        """Of the model that is watched."""
        parameters = self._reference.module.parameters() if self._reference else iter(())
        return next((p.device for p in parameters), torch.device("cpu"))

    def watch(self, reference: Reference) -> None:
        """Replay the passes of this reference's module; the first that is told counts."""
        if self._reference is not None:
            return
        self._reference = reference
        if not isinstance(reference, StepLoss):  # a trainer's own step tells of itself, by `passing`
            module = reference.module
            self._hooks.append(module.register_forward_pre_hook(Hook(self._forward_begins), with_kwargs=True))
            self._hooks.append(module.register_forward_hook(Hook(self._forward_ends), with_kwargs=True))

    def passing(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], run: Callable[[], Any]) -> Any:
        """Run one of a trainer's own steps, as a pass of the module that was told for it."""
        if self._is_replaying or not isinstance(self._reference, StepLoss):
            return run()
        begun = self._begin(args, kwargs)
        output = run()
        self._end(begun, output)
        return output

    def record(self) -> dict[str, Any]:
        """What was seen: dictionaries, lists, numbers, texts and tensors."""
        self._close()
        module = self._reference.module if self._reference else None
        return {
            **self._samples.described(),
            "updates": self._updates,
            "steps": self._steps,
            "problem": self._problem,
            "has_reference": self._reference is not None,
            "has_batch_norm": self._reference is not None and self._reference.has_batch_norm,
            "parameters": self._optimizers.parameters(module) if module is not None else [],
            "optimizer": self._optimizers.name,
            "first_steps": self._first_steps,
            "world_size": max(self._world_size, current_world().size),
        }

    # Passes

    def _forward_begins(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._is_replaying:
            self._pending = self._begin(args, kwargs)

    def _forward_ends(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not self._is_replaying:
            self._end(self._pending, output)

    def _begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Pass | None:
        reference = self._reference
        if reference is None or not torch.is_grad_enabled() or not reference.module.training:
            return None
        if self._coordinates is None and not self._is_followed(reference.module):
            return None
        coordinates = self._coordinates = self._coordinates or Coordinates(reference.module)
        self._close()
        if self._extent.has_enough(self._updates, self._samples):
            raise Enough
        begun = begin_pass(self._samples, args, kwargs)
        if self._extent.is_replayed(begun, self._window, self._updates, self._samples):
            begun.keep(reference.module, coordinates.of_weights())
        return begun

    def _is_followed(self, module: nn.Module) -> bool:
        self._problem = self._problem or (SHARDED if is_sharded(module) else self._rounding.obstacle)
        has_shapes = not any(is_lazy(p) for p in module.parameters())  # they may come with the first pass
        return not self._problem and has_shapes

    def _end(self, begun: Pass | None, output: Any) -> None:
        if begun is not None:
            begun.when_differentiated(output, self._differentiated)

    def _differentiated(self, done: Pass) -> None:
        if done not in self._window:
            self._window.append(done)
            self._samples.trained_on(done.origin)
            self._on_progress(len(self._updates), len(self._window))

    # Steps

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._is_replaying:
            return None
        return when_differentiated(args, kwargs, lambda: self._look(optimizer))

    def _look(self, optimizer: Optimizer) -> None:
        self._steps += 1
        if will_skip(optimizer):
            self._forget_window()
        if self._window:
            self._open()
        if self._is_open and self._coordinates is not None:
            self._updates[-1]["gradient"].update(self._coordinates.gradients(optimizer))
            self._optimizers.look(optimizer, self._updates[-1]["step"])
            if len(self._updates) == 1 and has_trust_ratio(optimizer):
                self._first |= {n: p.detach().clone() for n, p in self._coordinates.named(optimizer).items()}

    def _open(self) -> None:
        """A new update from the passes since the last one."""
        assert self._reference is not None
        assert self._coordinates is not None
        window, self._window = self._window, []
        self._world_size = current_world().size
        origin = window[0].origin
        update: dict[str, Any] = {
            "epoch": origin.batch.reading.number if origin else 1,
            "micro_batches": [done.described() for done in window],
            "gradient": {},
            "step": self._optimizers.events(),
            "sums": [],
            "is_moved": False,
            "is_joint": len({done.backward for done in window}) < len(window),
            "tolerance": self._rounding.tolerance(window, self._reference.module),
        }
        self._updates.append(update)
        self._is_open = True
        if not all(done.is_replayed for done in window):
            self._clipping.take(len(window))
            return
        update["weights"] = weights = self._coordinates.of_weights()
        update["is_vector"] = self._coordinates.is_vector()
        update["is_moved"] = any(not torch.equal(done.weights, weights) for done in window)
        self._is_replaying = True
        try:
            found = replay(self._reference, self._coordinates, window)
        finally:
            self._is_replaying = False
        if isinstance(found, str):
            self._problem = self._problem or f"update {len(self._updates)}: {found}"
        else:
            update["sums"], counts = found
            for described, count in zip(update["micro_batches"], counts, strict=True):
                described["count"] = count
        acted = [clip for clip in update["step"]["clips"] if clip["norm"] > clip["limit"]]
        raw = self._clipping.take(len(window))
        if raw is not None and acted:
            update["raw"] = raw

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._is_replaying:
            return
        self._optimizers.remember(optimizer)
        if self._first and len(self._updates) == 1 and self._coordinates is not None:
            self._first_steps += first_steps(optimizer, self._coordinates.named(optimizer), self._first)
            self._first = {}

    def _close(self) -> None:
        """The update is complete: put its gradient together."""
        if not self._is_open or self._coordinates is None:
            return
        self._is_open = False
        update = self._updates[-1]
        gradient = update.pop("gradient")
        update["step"]["without_gradient"] = self._coordinates.missing(gradient)
        if update["sums"]:
            update["applied"] = self._coordinates.assemble(gradient)
            update["previous"] = self._previous
        self._previous = self._coordinates.assemble(gradient) if "weights" in update else None
        self._on_progress(len(self._updates), 0)

    def _scaler_step(self, original: Any, scaler: Any, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        before = self._steps
        result = original(scaler, optimizer, *args, **kwargs)
        if scaler.is_enabled() and self._steps == before:  # infinite gradients: the update is skipped on purpose
            self._forget_window()
        return result

    def _forget_window(self) -> None:
        self._window.clear()
        self._clipping.take(0)
        self._optimizers.events()
