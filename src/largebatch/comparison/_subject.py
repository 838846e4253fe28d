"""Subject: what the cells of a study train. A task by name, and what a comparison may change about it.

A name, not a `Task`: it travels to workers on other machines, which find the task there. A part of the training data
keeps the share of every class; the softmax regression is the convex control, where every minimum is the minimum.
"""

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Literal

import torch
from torch import Tensor, nn

from largebatch.core import Task, data_size, generator
from largebatch.results import Result
from largebatch.tasks import find

__all__ = ["Subject"]


@dataclass(frozen=True)
class Subject(Result):
    """What is trained.

    Args:
        task: a built-in task or path/to/file.py:name.
        samples: of its training data, drawn once for all seeds and cells; None: all.
        network: "own", or "softmax" for a linear map of the inputs to the classes on the same data.
        validation: this share of the training data is held out, for what is tuned; 0: as the task has it.
    """

    task: str
    samples: int | None = None
    network: Literal["own", "softmax"] = "own"
    validation: float = 0.0

    def load(self) -> Task:
        """The task, read once in each process.

        Raises:
            ValueError, FileNotFoundError: it is not to be had, or has not what is asked of it.
        """
        return _load(self)

    def located(self) -> "Subject":
        """The same with the full path of a user's own task, which workers in other folders need.

        Raises:
            ValueError, FileNotFoundError: as `load`.
        """
        return replace(self, task=_found(self.task).origin or self.task)

    @property
    def has_classes(self) -> bool:
        """Whether it is the classification of resident samples, so that softmax regression is a control for it."""
        train = self.load().train
        return isinstance(train, tuple) and train[1].dim() == 1 and not train[1].is_floating_point()

    @property
    def label(self) -> str:
        """As it was asked for; needs no data."""
        return self._described(self.task)

    @property
    def title(self) -> str:
        """For reading: as its author calls it.

        Raises:
            ValueError, FileNotFoundError: as `load`.
        """
        return self._described(_found(self.task).name)

    def _described(self, name: str) -> str:
        part = "" if self.samples is None else f", {self.samples} samples"
        return f"{name}{part}{', softmax regression' if self.network == 'softmax' else ''}"


@lru_cache(maxsize=8)
def _load(subject: Subject) -> Task:
    task = _found(subject.task)
    if subject.samples is not None or subject.validation:
        task = _part(task, subject)
    if subject.network == "softmax":
        inputs, targets = _resident(task)
        network = partial(softmax_regression, inputs[0].numel(), 1 + int(targets.max()))
        task = replace(task, model=network, name=f"{task.name}, softmax")
    return task


@lru_cache(maxsize=8)
def _found(name: str) -> Task:
    return find(name)


def softmax_regression(features: int, classes: int) -> nn.Sequential:
    """Cross-entropy of it is convex in its weights."""
    return nn.Sequential(nn.Flatten(), nn.Linear(features, classes))


def _part(task: Task, subject: Subject) -> Task:
    inputs, targets = _resident(task)
    held = round(subject.validation * len(targets))
    wanted = len(targets) - held if subject.samples is None else subject.samples
    if not 1 <= wanted <= len(targets) - held:
        raise ValueError(
            f"samples: expected 1 to {len(targets) - held} of the training data of {task.name}, got {wanted}"
        )
    order = _by_class(targets)
    chosen, rest = order[:wanted].sort().values, order[wanted : wanted + held].sort().values
    validation = (inputs[rest], targets[rest]) if held else task.validation
    name = task.name if subject.samples is None else f"{task.name}[{wanted}]"
    return replace(task, name=name, train=(inputs[chosen], targets[chosen]), validation=validation)


def _by_class(targets: Tensor) -> Tensor:
    """An order whose every beginning holds each class by its share, to within one sample; (n,) positions."""
    order = torch.randperm(len(targets), generator=generator(0, "part of the data"))
    place = torch.empty(len(targets), dtype=torch.float64)
    labels = targets if targets.dim() == 1 and not targets.is_floating_point() else torch.zeros(len(targets))
    for label in labels.unique():
        members = order[labels[order] == label]
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return place.argsort(stable=True)


def _resident(task: Task) -> tuple[Tensor, Tensor]:
    if not isinstance(task.train, tuple) or data_size(task.train) == 0:
        raise ValueError(
            f"task {task.name}: expected resident training data, tensors (inputs, targets), for a part of it or a linear "
            f"control, got {type(task.train).__name__}; leave samples, validation and the control out"
        )
    return task.train
