"""Small networks in float64 with data, for tests of curvature."""

import torch
from torch import nn

from largebatch.core import cross_entropy


def seeded(make, seed=0):
    torch.manual_seed(seed)
    model = make().double()
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
    return model


def perceptron(activation=nn.Tanh):
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), activation(), nn.Dropout(0.5), nn.Linear(5, 4))


def convolutional(activation=nn.ReLU):
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), activation(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3),
        activation(), nn.Flatten(), nn.Linear(16, 6), activation(), nn.Linear(6, 4),
    )  # fmt: skip


def vectors(samples=10, seed=1):
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 3, generator=source, dtype=torch.float64)
    return x, torch.randint(4, (samples,), generator=source)


def images(samples=10, seed=1):
    source = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 2, 8, 8, generator=source, dtype=torch.float64)
    return x, torch.randint(4, (samples,), generator=source)


def mean_loss(data):
    """Of the full batch, for the oracle."""
    return lambda call: cross_entropy(call(data[0]), data[1]).mean()


def columns(operator):
    """The operator as a matrix."""
    return torch.stack([operator @ e for e in torch.eye(operator.shape[0], dtype=operator.dtype)], dim=1)


def symmetric(values, seed=0):
    """A dense matrix with these eigenvalues, and its eigenvectors in columns."""
    values = torch.as_tensor(values, dtype=torch.float64)
    source = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(len(values), len(values), generator=source, dtype=torch.float64)).Q
    return vectors * values @ vectors.T, vectors
