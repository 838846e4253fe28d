"""Small tasks for tests of the loop: seconds, not minutes, with everything that could go wrong in them."""

import torch
from torch import nn

from largebatch.core import Task, accuracy, cross_entropy
from largebatch.recipe import Recipe


def data(samples, features=6, classes=4, seed=0, dtype=torch.float64):
    centres = 1.5 * torch.randn(classes, features, generator=torch.Generator().manual_seed(99), dtype=dtype)
    source = torch.Generator().manual_seed(seed)
    targets = torch.randint(classes, (samples,), generator=source)
    return centres[targets] + torch.randn(samples, features, generator=source, dtype=dtype), targets


def perceptron():
    return nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.Tanh(), nn.Linear(10, 4))


def without_bias():
    """A bias before batch norm has gradient 0; Adam would divide its rounding error by itself."""
    return nn.Sequential(nn.Linear(6, 10, bias=False), nn.BatchNorm1d(10), nn.Tanh(), nn.Linear(10, 4))


def with_dropout():
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 16), nn.BatchNorm1d(16),
        nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 4),
    )  # fmt: skip


def task(model=perceptron, samples=203, **changes):
    options = {
        "name": "small/task", "model": model, "train": data(samples), "test": data(61, seed=1),
        "loss": cross_entropy, "metrics": {"accuracy": accuracy},
    }  # fmt: skip
    return Task(**(options | changes))


def recipe(batch=64, **changes):
    options = {"lr": 0.1, "ghost_batch_size": 8, "duration": "50steps", "precision": "fp64", "weight_decay": 1e-2}
    return Recipe(batch, **(options | changes))


def build(task, seed=0):
    """The initial model of a run, in float64."""
    from largebatch.train import build_model

    return build_model(task, seed).double()
