"""Linear, logistic and softmax regression with their gradient, Hessian and gradient noise written out.

Generalised linear models with canonical link (McCullagh and Nelder 1989, section 2.2): with z = W x, all three have the
per-example gradient (mean(z) - y) x' and the Hessian (derivative of mean by z) times x x'. What differs between them is
three short formulas, and none is left to autograd.
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from largebatch.core import Task, generator
from largebatch.tasks._problem import Problem, stable_recipe

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Regression(Problem):
    """A generalised linear model without intercept, z = W x.

    Parameters are W (outputs, features) in row-major order, as in `nn.Linear(features, outputs, bias=False)`.

    Args:
        train: inputs (n, features) float64 and targets, (n, outputs) float64 or class numbers (n,) int64.
        test: the same from the same distribution.
        outputs: rows of W.
    """

    train: Pair
    test: Pair
    outputs: int = 1

    @staticmethod
    @abstractmethod
    def value(outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of each example (n,), from z (n, outputs)."""

    @staticmethod
    @abstractmethod
    def residual(outputs: Tensor, targets: Tensor) -> Tensor:
        """Derivative of the loss by z: predicted mean minus target, (n, outputs)."""

    @staticmethod
    @abstractmethod
    def link_curvature(outputs: Tensor) -> Tensor:
        """Second derivative of the loss by z, (n, outputs, outputs)."""

    def loss(self, parameters: Tensor) -> float:
        return float(self.value(self._linear(parameters), self.train[1]).mean())

    def gradient(self, parameters: Tensor) -> Tensor:
        return self.example_gradients(parameters).mean(dim=0)

    def example_gradients(self, parameters: Tensor) -> Tensor:
        """(n, p), one row per training example."""
        residual = self.residual(self._linear(parameters), self.train[1])  # (n, outputs)
        return torch.einsum("ni,na->nia", residual, self.train[0]).flatten(1)

    def hessian(self, parameters: Tensor) -> Tensor:
        x, curvature = self.train[0], self.link_curvature(self._linear(parameters))
        blocks = torch.einsum("nij,na,nb->iajb", curvature, x, x) / len(x)
        return blocks.reshape(len(parameters), len(parameters))

    def noise_covariance(self, parameters: Tensor) -> Tensor:
        gradients = self.example_gradients(parameters)
        centred = gradients - gradients.mean(dim=0)
        return centred.T @ centred / len(centred)

    def task(self) -> Task:
        features = self.train[0].shape[1]
        start = torch.zeros(self.outputs * features, dtype=torch.float64)
        return Task(
            name=type(self).__name__,
            model=partial(nn.Linear, features, self.outputs, bias=False, dtype=torch.float64),
            train=self.train,
            test=self.test,
            loss=self.value,
            recipe=stable_recipe(self.hessian(start)),
        )

    def _linear(self, parameters: Tensor) -> Tensor:
        """z (n, outputs)."""
        return self.train[0] @ parameters.detach().reshape(self.outputs, -1).T


class LinearRegression(Regression):
    """Half the squared error. Targets (n, 1) float64."""

    @classmethod
    def generate(cls, samples: int = 512, features: int = 5, *, noise: float = 0.5, seed: int = 0) -> Self:
        """Targets W x plus normal noise."""

        def draw(purpose: str) -> Pair:
            x, z = _inputs(samples, features, 1, seed, purpose)
            return x, z + noise * _normal((samples, 1), seed, f"{purpose} noise")

        return cls(draw("train"), draw("test"))

    @staticmethod
    def value(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().sum(dim=1) / 2

    @staticmethod
    def residual(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs - targets

    @staticmethod
    def link_curvature(outputs: Tensor) -> Tensor:
        return torch.ones_like(outputs)[:, :, None]


class LogisticRegression(Regression):
    """Binary cross-entropy. Targets (n, 1) float64, 0 or 1."""

    @classmethod
    def generate(cls, samples: int = 512, features: int = 5, *, seed: int = 0) -> Self:
        """Targets drawn with probability sigmoid(W x)."""

        def draw(purpose: str) -> Pair:
            x, z = _inputs(samples, features, 1, seed, purpose)
            return x, torch.bernoulli(torch.sigmoid(z), generator=generator(seed, f"{purpose} targets"))

        return cls(draw("train"), draw("test"))

    @staticmethod
    def value(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").sum(dim=1)

    @staticmethod
    def residual(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.sigmoid(outputs) - targets

    @staticmethod
    def link_curvature(outputs: Tensor) -> Tensor:
        p = torch.sigmoid(outputs)
        return (p * (1 - p))[:, :, None]


class SoftmaxRegression(Regression):
    """Cross-entropy. Targets (n,) int64."""

    @classmethod
    def generate(cls, samples: int = 512, features: int = 5, classes: int = 3, *, seed: int = 0) -> Self:
        """Targets drawn with probabilities softmax(W x)."""

        def draw(purpose: str) -> Pair:
            x, z = _inputs(samples, features, classes, seed, purpose)
            targets = torch.multinomial(z.softmax(dim=1), 1, generator=generator(seed, f"{purpose} targets"))
            return x, targets.flatten()

        return cls(draw("train"), draw("test"), outputs=classes)

    @staticmethod
    def value(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none")

    @staticmethod
    def residual(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.softmax(dim=1) - F.one_hot(targets, outputs.shape[1])

    @staticmethod
    def link_curvature(outputs: Tensor) -> Tensor:
        p = outputs.softmax(dim=1)
        return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]


def _inputs(samples: int, features: int, outputs: int, seed: int, purpose: str) -> Pair:
    """Inputs whose scale falls from 1 to 0.1 over the features, so that the Hessian has a spectrum; and W x."""
    scales = torch.logspace(0, -1, features, dtype=torch.float64)
    x = _normal((samples, features), seed, f"{purpose} inputs") * scales
    return x, x @ _normal((outputs, features), seed, "weights").T


def _normal(shape: tuple[int, ...], seed: int, purpose: str) -> Tensor:
    return torch.randn(shape, generator=generator(seed, purpose), dtype=torch.float64)
