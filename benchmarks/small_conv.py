"""A small convolutional network on Fashion-MNIST, in a file of its own: a task's file is part of what its runs are known by.

Two convolutions of 16 and 32 channels at stride 2, each with batch norm, and a linear map: 20,586 parameters.
"""

from dataclasses import replace

from torch import nn

from largebatch import tasks
from largebatch.recipe import Recipe


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 49, 10),
    )  # fmt: skip


task = replace(
    tasks.get("fashion-mnist/c1"),
    name="fashion-mnist/small-conv",
    model=_network,
    recipe=Recipe(64, lr=0.05, duration="20ep"),
)
