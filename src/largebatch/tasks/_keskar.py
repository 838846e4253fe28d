"""The networks of Keskar et al. 2017 (arXiv 1609.04836): F1, F2, C1 to C4.

C1 and C2 as in the authors' code (keskarnitish/large-batch-training, network_zoo.py: `shallownet`, `deepnet`); C3 and C4
are the same with 100 classes. F1 as re-implemented by Hoffer et al. (eladhoffer/bigBatch, models/mnist_f1.py). F2's
shape, seven layers of 512 units, is recalled and not verified against the paper's appendix.

Every linear map keeps its bias in front of batch norm, as there. The weights start as torch's layers do, not as Keras'
did, and batch norm evaluates with running statistics where Keras 1 used the batch's.
"""

import math

from torch import nn


def f1(features: int = 784, classes: int = 10) -> nn.Sequential:
    """Fully connected, five hidden layers of 512. Inputs (n, ...) of `features` values each."""
    return nn.Sequential(nn.Flatten(), *_hidden(features, [512] * 5), nn.Linear(512, classes))


def f2(features: int = 360, classes: int = 1973) -> nn.Sequential:
    """Fully connected, seven hidden layers of 512 (unverified). Inputs (n, features)."""
    return nn.Sequential(nn.Flatten(), *_hidden(features, [512] * 7), nn.Linear(512, classes))


def digits_mlp(features: int = 64, classes: int = 10) -> nn.Sequential:
    """A small relative of F1 for the 8 x 8 digits: two hidden layers of 64. Not from the paper."""
    return nn.Sequential(nn.Flatten(), *_hidden(features, [64] * 2), nn.Linear(64, classes))


def c1(channels: int = 3, size_pixels: int = 32, classes: int = 10) -> nn.Sequential:
    """AlexNet-like: two 5x5 convolutions, two dense layers. Inputs (n, channels, size_pixels, size_pixels)."""
    pooled_pixels = math.ceil(size_pixels / 4)  # two poolings that halve and round up
    return nn.Sequential(
        *_convolution(channels, 64, kernel=5),
        nn.MaxPool2d(3, stride=2, padding=1),
        *_convolution(64, 64, kernel=5),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Flatten(),
        *_hidden(64 * pooled_pixels**2, [384], dropout=0.5),
        *_hidden(384, [192], dropout=0.5),
        nn.Linear(192, classes),
    )


def c2(classes: int = 10) -> nn.Sequential:
    """VGG-like: thirteen 3x3 convolutions in five stages. Inputs (n, 3, 32, 32)."""
    stages = (([64, 64], 0.3), ([128, 128], 0.4), ([256] * 3, 0.4), ([512] * 3, 0.4), ([512] * 3, 0.4))
    layers: list[nn.Module] = []
    channels = 3
    for widths, dropout in stages:
        for position, width in enumerate(widths):
            layers += _convolution(channels, width, kernel=3)
            if position < len(widths) - 1:
                layers.append(nn.Dropout(dropout))
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Dropout(0.5), *_hidden(512, [512], dropout=0.5), nn.Linear(512, classes)
    )


def _hidden(features: int, widths: list[int], dropout: float = 0.0) -> list[nn.Module]:
    """Linear, BatchNorm, ReLU (and Dropout) for each width."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(features, width), nn.BatchNorm1d(width), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        features = width
    return layers


def _convolution(channels: int, width: int, kernel: int) -> list[nn.Module]:
    """A convolution that keeps the image's size, BatchNorm, ReLU."""
    return [nn.Conv2d(channels, width, kernel, padding=kernel // 2), nn.BatchNorm2d(width), nn.ReLU()]
