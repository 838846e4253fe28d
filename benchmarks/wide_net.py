"""A net of ten million parameters for step times: 784-2048-2048-2048-10, no data but noise of the right shape."""

import torch
from torch import nn

from largebatch.core import Task, cross_entropy
from largebatch.recipe import Recipe

SAMPLES, FEATURES, WIDTH, CLASSES = 8192, 784, 2048, 10


def network() -> nn.Module:
    """10,023,946 parameters."""
    return nn.Sequential(
        nn.Linear(FEATURES, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(),
        nn.Linear(WIDTH, CLASSES),
    )  # fmt: skip


def data(samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and classes."""
    source = torch.Generator().manual_seed(seed)
    return torch.randn(samples, FEATURES, generator=source), torch.randint(CLASSES, (samples,), generator=source)


task = Task("wide", network, data(SAMPLES, 0), data(64, 1), cross_entropy, recipe=Recipe(256, lr=0.01))
