"""Models and data on which landscapes are drawn in the tests."""

import random

import numpy as np
import torch
from torch import nn

from largebatch.core import cross_entropy


def trained(model, data, steps=3):
    """A few steps of training, so that running statistics are not the initial ones."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(data[0]), data[1]).mean().backward()
        optimizer.step()
    return model


def data(samples=10, seed=0, features=3, classes=4):
    source = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, features, generator=source, dtype=torch.float64)
    return inputs, torch.randint(classes, (samples,), generator=source)


def network(seed=0):
    """With batch norm, biases, and dropout that evaluation must switch off."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 4)).double()
    return trained(model, data(32, seed + 50))


def convolutional(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, groups=2),
        nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 25, 4),
    ).double()  # fmt: skip


class Function(nn.Module):
    """A loss written down as a function of the weights x (p,), the same for each sample."""

    def __init__(self, start, function):
        super().__init__()
        self.x = nn.Parameter(torch.as_tensor(start, dtype=torch.float64).clone())
        self.function = function

    def forward(self, inputs):
        return self.function(self.x).expand(len(inputs))


def output_is_loss(outputs, targets):
    return outputs


def nothing(samples=3):
    """Data for losses that read none."""
    return torch.zeros(samples, 1, dtype=torch.float64), torch.zeros(samples, dtype=torch.int64)


def traces(model):
    """All that a measurement could leave behind."""
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict(keep_vars=False).items()},
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires": [p.requires_grad for p in model.parameters()],
        "training": [module.training for module in model.modules()],
        "places": [tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()]],
        "random": (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()),  # noqa: NPY002
    }


def assert_untouched(before, model):
    after = traces(model)
    for name, tensor in before["state"].items():
        assert torch.equal(tensor, after["state"][name]), name
    for x, y in zip(before["grads"], after["grads"], strict=True):
        assert (x is None and y is None) or torch.equal(x, y)
    assert torch.equal(before["random"][0], after["random"][0])
    assert before["random"][1:] == after["random"][1:]
    for kind in ("requires", "training", "places"):
        assert before[kind] == after[kind], kind
