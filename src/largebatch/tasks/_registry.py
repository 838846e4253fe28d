"""The built-in tasks by name. A name is `data/network`; each row is one line of what `largebatch tasks` prints.

The recipes are at each task's small batch. Published: Goyal et al. 2017 (arXiv 1706.02677, section 5.1) for ImageNet, He
et al. 2016 (arXiv 1512.03385, section 4.2: 64k iterations of 128 on two GPUs, rate / 10 at 32k and 48k) for ResNet-20.
The others are plausible starting points that nobody has tuned: Keskar et al. 2017 (arXiv 1609.04836) used Adam at its
defaults, without a budget.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from largebatch.core import Loss, Task, accuracy, cross_entropy, token_cross_entropy
from largebatch.recipe import Recipe
from largebatch.tasks import _datasets as datasets
from largebatch.tasks._datasets import DataSet
from largebatch.tasks._gpt import GPT
from largebatch.tasks._keskar import c1, c2, digits_mlp, f1, f2
from largebatch.tasks._resnet import resnet20, resnet50


@dataclass(frozen=True)
class BuiltIn:
    """A built-in task before its data are read."""

    name: str
    network: str
    data: DataSet
    model: Callable[..., nn.Module]
    recipe: Recipe
    loss: Loss = cross_entropy


@dataclass(frozen=True)
class TaskRow:
    """A built-in task as a line of a table; nothing has been read for it.

    Args:
        train_size, test_size: number of samples; None where the user's own file decides.
        present: whether its data are on this machine.
        where: the folder that holds them, or else how to get them.
    """

    name: str
    network: str
    data: str
    train_size: int | None
    test_size: int | None
    present: bool
    where: str


def available() -> list[TaskRow]:
    """The built-in tasks, and whether the data of each are here. Quick: opens no file, downloads nothing."""
    return [_row(task) for task in _BUILT_IN]


def get(name: str) -> Task:
    """A built-in task with its data, which are downloaded where that is needed and possible.

    Raises:
        ValueError: no such task, or damaged data.
        FileNotFoundError: the data are nowhere to be had; says what would help.
    """
    built_in = next((task for task in _BUILT_IN if task.name == name), None)
    if built_in is None:
        raise ValueError(_unknown(name))
    split = built_in.data.load()
    return Task(
        name=name,
        model=partial(built_in.model, **split.shape),
        train=split.train,
        test=split.test,
        loss=built_in.loss,
        metrics={"accuracy": accuracy} if built_in.loss is cross_entropy else {},
        recipe=built_in.recipe,
    )


def _row(task: BuiltIn) -> TaskRow:
    data, source = task.data, task.data.source
    folder = None if source is None else source.find()
    where = "bundled with scikit-learn" if source is None else str(folder or source.advice())
    present = source is None or folder is not None
    return TaskRow(task.name, task.network, data.title, data.train_size, data.test_size, present, where)


def _unknown(name: str) -> str:
    names = [task.name for task in _BUILT_IN]
    close = difflib.get_close_matches(name, names, n=1)
    return (
        f"unknown task {name!r}{f', did you mean {close[0]!r}?' if close else ''}: expected one of "
        f"{', '.join(names)}, or a file of your own as path/to/file.py:name"
    )


_KESKAR = Recipe(256, lr=0.1, duration="100ep")
_SMALL_IMAGES = Recipe(256, lr=0.1, duration="20ep")

_BUILT_IN = (
    BuiltIn(
        "digits/mlp",
        "MLP, 2 x 64, BN",
        datasets.DIGITS,
        digits_mlp,
        Recipe(16, lr=0.05, duration="20ep", ghost_batch_size=16),
    ),
    BuiltIn("fashion-mnist/f1", "F1: MLP, 5 x 512, BN", datasets.FASHION_MNIST, f1, _SMALL_IMAGES),
    BuiltIn(
        "fashion-mnist/c1",
        "C1: 2 convolutions, 2 dense, BN",
        datasets.FASHION_MNIST,
        partial(c1, channels=1, size_pixels=28),
        _SMALL_IMAGES,
    ),
    BuiltIn("mnist/f1", "F1: MLP, 5 x 512, BN", datasets.MNIST, f1, _SMALL_IMAGES),
    BuiltIn(
        "mnist/c1",
        "C1: 2 convolutions, 2 dense, BN",
        datasets.MNIST,
        partial(c1, channels=1, size_pixels=28),
        _SMALL_IMAGES,
    ),
    BuiltIn("cifar10/c1", "C1: 2 convolutions, 2 dense, BN", datasets.CIFAR10, c1, _KESKAR),
    BuiltIn("cifar10/c2", "C2: 13 convolutions, 1 dense, BN", datasets.CIFAR10, c2, _KESKAR),
    BuiltIn("cifar100/c3", "C3: C1 with 100 outputs", datasets.CIFAR100, partial(c1, classes=100), _KESKAR),
    BuiltIn("cifar100/c4", "C4: C2 with 100 outputs", datasets.CIFAR100, partial(c2, classes=100), _KESKAR),
    BuiltIn(
        "cifar10/resnet20",
        "ResNet-20",
        datasets.STANDARDISED_CIFAR10,
        resnet20,
        Recipe(
            128,
            lr=0.1,
            nesterov=False,
            duration="164ep",
            schedule="step(82ep,123ep)",
            ghost_batch_size=64,
            augment=("flip", "crop:4"),
        ),
    ),
    BuiltIn("timit/f2", "F2: MLP, 7 x 512, BN (unverified)", datasets.TIMIT, f2, _SMALL_IMAGES),
    BuiltIn(
        "imagenet/resnet50",
        "ResNet-50",
        datasets.IMAGENET,
        resnet50,
        Recipe(256, lr=0.1, weight_decay=1e-4, duration="90ep", schedule="step(30ep,60ep,80ep)"),
    ),
    BuiltIn(
        "text/gpt",
        "GPT, 2 x 128, bytes",
        datasets.TEXT,
        partial(GPT, block_tokens=datasets.TEXT_BLOCK_BYTES),
        Recipe(32, lr=1e-3, optimizer="adamw", beta2=0.99, weight_decay=0.1, duration="10ep", clip_norm=1.0),
        token_cross_entropy,
    ),
)
