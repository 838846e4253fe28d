"""Trainers whose loss is found without being told: Lightning modules and the HF Trainer.

Their own step gives a mean; `StepLoss` gives it its sum back. They are watched from the moment they are imported, so that a
script without them does not load them.
"""

import functools
import importlib.abc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Protocol, final

from torch import nn

from largebatch.replay import Reference, StepLoss, unwrapped

__all__ = ["frameworks_watched", "lightning_watched"]


class StepWatcher(Protocol):
    """The recorder, as trainers see it."""

    def watch(self, reference: Reference) -> None:
        """Replay the passes of this reference's module."""
        ...

    def passing(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], run: Callable[[], Any]) -> Any:
        """Run one step as a pass."""
        ...


@contextmanager
def frameworks_watched(watcher: StepWatcher) -> Iterator[None]:
    """Inside, trainers tell `watcher` what they train, whether they are loaded already or not."""
    undo: list[Callable[[], None]] = []
    patches = {
        "lightning.pytorch.trainer.trainer": _watch_lightning,
        "pytorch_lightning.trainer.trainer": _watch_lightning,
        "transformers.trainer": _watch_transformers,
    }
    for name, patch in patches.items():
        if name in sys.modules:
            undo.append(patch(sys.modules[name], watcher))
    finder = _Finder({name: lambda module, p=patch: undo.append(p(module, watcher)) for name, patch in patches.items()})
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for action in undo:
            action()


@final
class _Finder(importlib.abc.MetaPathFinder):
    """Calls back when one of the named modules has been imported."""

    def __init__(self, actions: Mapping[str, Callable[[ModuleType], None]]):
        self._actions = actions

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._actions:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next((s for finder in others if (s := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            execute, action = spec.loader.exec_module, self._actions[fullname]

            def execute_and_tell(module: ModuleType) -> None:
                execute(module)
                action(module)

            spec.loader.exec_module = execute_and_tell
        return spec


def _watch_lightning(module: ModuleType, watcher: StepWatcher) -> Callable[[], None]:
    trainer, original = module.Trainer, module.Trainer.fit

    @functools.wraps(original)
    def fit(self: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        with lightning_watched(unwrapped(model), watcher):
            return original(self, model, *args, **kwargs)

    trainer.fit = fit
    return lambda: setattr(trainer, "fit", original)


@contextmanager
def lightning_watched(module: Any, watcher: StepWatcher) -> Iterator[None]:
    """Inside, every `training_step` of a Lightning module, which gives the mean loss of a batch, is told to `watcher`."""
    step = module.training_step
    watcher.watch(StepLoss(module, _without_logging(module, step)))

    @functools.wraps(step)
    def training_step(*args: Any, **kwargs: Any) -> Any:
        return watcher.passing(args, kwargs, lambda: step(*args, **kwargs))

    module.training_step = training_step
    try:
        yield
    finally:
        vars(module).pop("training_step", None)


def _without_logging(model: nn.Module, step: Callable[..., Any]) -> Callable[..., Any]:
    """The step, with `self.log` and `self.log_dict` doing nothing: a replay is no second batch of metrics."""

    def quiet(*args: Any, **kwargs: Any) -> Any:
        silent: dict[str, Any] = {name: lambda *a, **k: None for name in ("log", "log_dict")}
        vars(model).update(silent)
        try:
            return step(*args, **kwargs)
        finally:
            for name in silent:
                del vars(model)[name]

    return quiet


def _watch_transformers(module: ModuleType, watcher: StepWatcher) -> Callable[[], None]:
    """HF: `compute_loss`, without the count of the whole window, gives the mean loss of a micro-batch."""
    trainer, original = module.Trainer, module.Trainer.train

    @functools.wraps(original)
    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        compute = self.compute_loss

        def mean(inputs: Mapping[str, Any]) -> Any:
            return compute(inner, dict(inputs))

        inner = unwrapped(self.model)
        watcher.watch(StepLoss(inner, mean, lambda inputs: _smoothed_count(self, inner, inputs)))

        @functools.wraps(compute)
        def compute_loss(model: nn.Module, inputs: Any, *more: Any, **options: Any) -> Any:
            given = dict(inputs)  # compute_loss may take labels out
            return watcher.passing((given,), {}, lambda: compute(model, inputs, *more, **options))

        self.compute_loss = compute_loss
        try:
            return original(self, *args, **kwargs)
        finally:
            vars(self).pop("compute_loss", None)

    trainer.train = train
    return lambda: setattr(trainer, "train", original)


def _smoothed_count(trainer: Any, model: nn.Module, inputs: Mapping[str, Any]) -> float | None:
    """The labels that HF's label smoothing averages over, which calls no cross-entropy of torch's."""
    if trainer.label_smoother is None or "labels" not in inputs:
        return None
    labels = inputs["labels"]
    if type(model).__name__.endswith("ForCausalLM"):  # predicts the next token
        labels = labels[..., 1:]
    return float((labels != trainer.label_smoother.ignore_index).sum())
