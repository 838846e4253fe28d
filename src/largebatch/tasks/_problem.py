"""Problem: something to train that carries its exact answers, in float64 and in closed form.

McCandlish et al. 2018 (arXiv 1812.06162, section 2.2), for a loss that is the mean of n per-example losses. The paper's
letters:

    G        `gradient`             of the mean loss
    H        `hessian`              of the mean loss
    Sigma    `noise_covariance`     (1/n) sum (g_i - G)(g_i - G)', of the per-example gradients g_i
    B_simple `noise_scale`          tr(Sigma) / |G|^2
    B_noise  `critical_batch_size`  tr(H Sigma) / G'HG

Sigma is that of one draw from the n training examples, hence divided by n and not by n - 1.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from largebatch.core import Task
from largebatch.recipe import Recipe


class Problem(ABC):
    """A training problem whose answers are known. `parameters` (p,) is the task's model, flattened, in float64."""

    @abstractmethod
    def loss(self, parameters: Tensor) -> float:
        """Mean loss over the training set."""

    @abstractmethod
    def gradient(self, parameters: Tensor) -> Tensor:
        """(p,) of the mean loss."""

    @abstractmethod
    def hessian(self, parameters: Tensor) -> Tensor:
        """(p, p) of the mean loss."""

    @abstractmethod
    def noise_covariance(self, parameters: Tensor) -> Tensor:
        """(p, p) covariance of the gradient of one training example drawn at random."""

    @abstractmethod
    def task(self) -> Task:
        """The same problem as something to train."""

    def noise_scale(self, parameters: Tensor) -> float:
        """tr(Sigma) / |G|^2, in examples; infinite where the gradient is zero."""
        gradient = self.gradient(parameters)
        return float(self.noise_covariance(parameters).trace() / gradient.square().sum())

    def critical_batch_size(self, parameters: Tensor) -> float:
        """tr(H Sigma) / G'HG, in examples; infinite where the gradient is zero."""
        gradient, hessian = self.gradient(parameters), self.hessian(parameters)
        return float((hessian * self.noise_covariance(parameters)).sum() / (gradient @ hessian @ gradient))


def stable_recipe(hessian: Tensor) -> Recipe:
    """A tenth of 1 / the largest curvature at the start, which momentum 0.9 makes an effective 1 / curvature."""
    largest = float(torch.linalg.eigvalsh(hessian)[-1])
    return Recipe(32, lr=0.1 / largest, weight_decay=0.0, duration="20ep", schedule="constant", precision="fp64")
