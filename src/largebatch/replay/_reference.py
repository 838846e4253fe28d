"""What is replayed: a module, what one of its passes was given, and how its output becomes a summed loss and a count.

The gradient of the global batch is Σ losses / Σ counts (Goyal et al. 2017, arXiv 1706.02677, section 2.5, remark 3), so a
replay needs the sum over a micro-batch, not its mean. A user tells the loss of each example; a trainer that only has a
mean is given its sum back: the mean times the number of targets that cross-entropy did not ignore, or else of samples.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast, final

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.data import Dataset

from largebatch.core import Data, GhostBatchNorm, Loss, Task, total, weigh
from largebatch.replay._resident import NO_ROWS, resident

__all__ = [
    "ExampleLoss",
    "ModelLoss",
    "Reference",
    "StepLoss",
    "Watcher",
    "is_sharded",
    "listen",
    "reference",
    "tensors_in",
    "unwrapped",
]

M = TypeVar("M", bound=nn.Module)


class Reference(ABC):
    """One way to get a summed loss from a pass through `module`."""

    def __init__(self, module: nn.Module):
        self.module = module

    @abstractmethod
    def call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The pass itself, as the loop makes it."""

    @abstractmethod
    def loss_sum(self, output: Any, targets: Any, samples: int) -> tuple[Tensor, float]:
        """Summed loss and count of one pass."""

    @property
    def has_batch_norm(self) -> bool:
        """Whether a layer normalises over all samples of a pass; ghosts have a size of their own."""
        norms = (layer for layer in self.module.modules() if isinstance(layer, _BatchNorm))
        return any(not isinstance(norm, _InstanceNorm | GhostBatchNorm) for norm in norms)

    @property
    def needs_targets(self) -> bool:
        """Whether the targets are apart from what the pass was given."""
        return False

    def targets_of(self, inputs: Tensor | None) -> Any:
        """The targets of inputs that came through no loader; or why they cannot be told."""
        return NO_ROWS


@final
class ExampleLoss(Reference):
    """The loss of each example, told by the user. `data` finds the targets of inputs that came through no loader."""

    def __init__(self, module: nn.Module, data: Data | None, loss: Loss):
        super().__init__(module)
        self._resident = resident(data)
        self.loss = loss

    def call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return self.module(*args, **kwargs)

    def loss_sum(self, output: Any, targets: Any, samples: int) -> tuple[Tensor, float]:
        try:
            result = self.loss(output, targets)
        except Exception as error:
            raise RuntimeError(
                f"the loss given to check.reference raised {type(error).__name__}: {error}; it was called with what the "
                f"model returned ({type(output).__name__}) and what the data set gives beside the inputs "
                f"({type(targets).__name__})"
            ) from error
        values, weights = weigh(result, samples)
        summed, count = total(values, weights)
        return summed, float(count)

    @property
    def needs_targets(self) -> bool:
        return True

    def targets_of(self, inputs: Tensor | None) -> Any:
        return NO_ROWS if self._resident is None or inputs is None else self._resident.targets_of(inputs)


class MeanLoss(Reference, ABC):
    """A pass that gives a mean, whose sum is told by the targets that its cross-entropies count, or else by the samples."""

    def __init__(self, module: nn.Module):
        super().__init__(module)
        self._counts: list[float] = []

    def call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        with _counted() as self._counts:
            return self.run(args, kwargs)

    def loss_sum(self, output: Any, targets: Any, samples: int) -> tuple[Tensor, float]:
        count = self._counts[0] if len(set(self._counts)) == 1 else float(samples)
        return self.loss_of(output) * count, count

    @abstractmethod
    def run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The pass."""

    @staticmethod
    def loss_of(output: Any) -> Tensor:
        """The mean in a pass's output."""
        if isinstance(output, Tensor):
            return output
        return output["loss"] if isinstance(output, Mapping) else output.loss


@final
class StepLoss(MeanLoss):
    """A trainer's own step, whose output is the mean or has it as `loss`.

    Args:
        count: by what the mean divides, from the step's arguments, where its cross-entropies do not tell; None if they do.
    """

    def __init__(self, module: nn.Module, step: Callable[..., Any], count: Callable[..., float | None] | None = None):
        super().__init__(module)
        self._step = step
        self._count = count

    def run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        told = self._count(*args, **kwargs) if self._count is not None else None
        output = self._step(*args, **kwargs)
        if told is not None:
            self._counts[:] = [told]
        return output


@final
class ModelLoss(MeanLoss):
    """A model of transformers: given labels, its output has their mean loss, unless it is told what to divide by."""

    def run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return self.module(*args, **{name: value for name, value in kwargs.items() if name != "num_items_in_batch"})


@contextmanager
def _counted() -> Iterator[list[float]]:
    """Inside, every cross-entropy notes by what its mean divides."""
    counts: list[float] = []
    original = F.cross_entropy

    def counting(input: Tensor, target: Tensor, weight: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        if not target.is_floating_point():
            kept = target[target != kwargs.get("ignore_index", -100)]
            counts.append(float(len(kept) if weight is None else weight[kept].sum()))
        return original(input, target, weight, *args, **kwargs)

    F.cross_entropy = cast(Any, counting)
    try:
        yield counts
    finally:
        F.cross_entropy = original


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists, mappings and model outputs."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in cast(Mapping[Any, Any], value).values():
            yield from tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in cast(list[Any], value):
            yield from tensors_in(item)


def is_sharded(module: nn.Module) -> bool:
    """Whether a worker holds only parts of the parameters, as FSDP has it."""
    names = {kind.__name__ for part in module.modules() for kind in type(part).__mro__}
    return not names.isdisjoint({"FullyShardedDataParallel", "FSDPModule"})


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside DistributedDataParallel, torch.compile and the like."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


class Watcher(Protocol):
    """Who is told of references: the recorder, while it is installed."""

    def watch(self, reference: Reference) -> None:
        """Replay the passes of this reference's module."""
        ...


_listeners: list[Watcher] = []


@contextmanager
def listen(watcher: Watcher) -> Iterator[None]:
    """Inside, `reference` speaks to `watcher`."""
    _listeners.append(watcher)
    try:
        yield
    finally:
        _listeners.remove(watcher)


def reference(model: M, data: "Data | Task | None" = None, loss: Loss | None = None) -> M:
    """Tell the checker what the loop should compute. Outside `largebatch check` this does nothing.

        check.reference(model, dataset, loss)       # once, before training
        check.reference(model, task)                # a core.Task has data and loss

    Args:
        model: what is trained, bare or wrapped in DistributedDataParallel or torch.compile.
        data: the training data; a data set that is read through a DataLoader may be left out (None).
        loss: (outputs, targets) → one value per example, shape (n,), or (values, weights) per token. The targets are what
            the data set gives beside the inputs: the second item of a pair, the rest of a longer tuple, a whole mapping.
            torch's mean under class weights or ignore_index divides by the sum of the weights: return the losses without
            their weights, and w = weight[target], 0 where it is ignored.

    Returns:
        The model itself.

    Raises:
        TypeError: the model is no module, or there is no loss.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model: expected a torch.nn.Module, got {type(model).__name__}; give the model that is trained"
        )
    if isinstance(data, Task):
        data, loss = data.train, data.loss
    if loss is None or not callable(loss):
        raise TypeError(
            f"loss: expected a function (outputs, targets) → one value per example, got {loss!r}: for example "
            "largebatch.core.cross_entropy, or give a core.Task in place of data and loss"
        )
    if _listeners:
        _listeners[-1].watch(
            ExampleLoss(unwrapped(model), cast(tuple[Tensor, Tensor] | Dataset[Any] | None, data), loss)
        )
    return model
