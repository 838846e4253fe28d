"""The initial model, and what is wrong with a task, before anything is written or said.

Two samples go through model, loss and metrics.
"""

import torch
from torch import nn

from largebatch.core import Loader, Task, data_size, weigh
from largebatch.recipe import Recipe
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
    return model, device


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
        if recipe.label_smoothing:
            try:
                task.loss(outputs, targets, label_smoothing=recipe.label_smoothing)
            except TypeError as error:
                raise ValueError(
                    f"label_smoothing: the loss of task {task.name} takes no keyword label_smoothing ({error}): "
                    "use largebatch.core.cross_entropy, or set recipe.label_smoothing=0"
                ) from error
    model.train(was_training)
