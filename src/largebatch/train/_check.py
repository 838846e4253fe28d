"""The initial model, and what is wrong with a task, before anything is written or said.

Two samples go through model, loss and metrics.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from largebatch.core import Loader, Task, data_size, has_batch_norm, weigh
from largebatch.recipe import Recipe
from largebatch.train._augment import build_augmentation
from largebatch.train._execution import Execution, dtype_of, prepare_model
from largebatch.train._identity import build_model

__all__ = ["prepare"]


def prepare(task: Task, recipe: Recipe, execution: Execution, *, seed: int = 0) -> tuple[nn.Module, torch.device]:
    """The initial model on its device, of a task, recipe and machine that go together.

    Raises:
        ValueError: they do not; the message says what to change.
    """
    recipe.validate_for(data_size(task.train))
    device = execution.resolve_device()
    model = prepare_model(build_model(task, seed), recipe, execution, device)
    _check_task(task, model, device, recipe)
    _check_phases(task, model, device, recipe, execution)
    return model, device


def _check_phases(task: Task, model: nn.Module, device: torch.device, recipe: Recipe, execution: Execution) -> None:
    """Refuse what would stop a phase after it, or the phases before it, have begun.

    Raises:
        ValueError: with every mistake, a line each.
    """
    mistakes: list[str] = []
    if not any(p.requires_grad for p in model.parameters()):
        mistakes.append(f"model: expected a parameter that needs a gradient, task {task.name} has none: unfreeze some")
    images, _ = next(Loader(task.train, device, dtype=dtype_of(recipe)).slices(0, 1, 1))
    phase, place = recipe, ""
    while True:
        mistakes += [place + mistake for mistake in _phase_mistakes(phase, recipe, model, images, execution)]
        if phase.then is None:
            break
        phase, place = phase.then.recipe, f"{place}then.recipe."
    if mistakes:
        raise ValueError("\n  ".join([f"task {task.name} and its recipe do not go together:", *mistakes]))


def _most_smoothing(recipe: Recipe) -> float:
    """Over all phases."""
    return max(recipe.label_smoothing, _most_smoothing(recipe.then.recipe) if recipe.then else 0.0)


def _phase_mistakes(
    phase: Recipe, first: Recipe, model: nn.Module, images: Tensor, execution: Execution
) -> Iterator[str]:
    if phase.precision != first.precision:
        yield f"precision: expected {first.precision} in every phase, got {phase.precision}: weights keep one type"
    if has_batch_norm(model) and phase.global_batch_size < 2:
        yield f"global_batch_size: batch norm expected at least 2 samples, got {phase.global_batch_size}: take 2 or more"
    if has_batch_norm(model) and phase.ghost_batch_size is None and execution.micro_batch_size is not None:
        yield (
            f"micro_batch_size: got {execution.micro_batch_size}, but with ghost_batch_size=None batch norm takes its "
            "statistics over the whole global batch, in one pass: set ghost_batch_size=32, or leave micro_batch_size out"
        )
    if phase.augment:
        try:
            build_augmentation(phase.augment)(images, torch.zeros(1, dtype=torch.int64), 0, 0)
        except ValueError as error:
            yield f"augment: {error}"


def _check_task(task: Task, model: nn.Module, device: torch.device, recipe: Recipe) -> None:
    """Refuse a task that cannot be trained as declared.

    Raises:
        ValueError: an empty data set, a scalar loss, label smoothing with a loss that takes none.
    """
    for name, data in (("train", task.train), ("test", task.test), ("validation", task.validation)):
        if data is not None and data_size(data) == 0:
            raise ValueError(f"task {task.name}: expected at least one sample in {name}, got none")
    loader = Loader(task.train, device, dtype=dtype_of(recipe))
    inputs, targets = next(loader.slices(0, min(2, data_size(task.train)), 2))
    was_training = model.training
    model.eval()
    with torch.no_grad():
        outputs = model(inputs)
        try:
            weigh(task.loss(outputs, targets), len(inputs))
            for metric in task.metrics.values():
                weigh(metric(outputs, targets), len(inputs))
        except ValueError as error:
            raise ValueError(f"task {task.name}: {error}") from error
        smoothing = _most_smoothing(recipe)
        if smoothing:
            try:
                task.loss(outputs, targets, label_smoothing=smoothing)
            except TypeError as error:
                raise ValueError(
                    f"label_smoothing: the loss of task {task.name} takes no keyword label_smoothing ({error}): "
                    "use largebatch.core.cross_entropy, or set recipe.label_smoothing=0"
                ) from error
    model.train(was_training)
