"""The noisy quadratic, on which McCandlish et al. 2018 (arXiv 1812.06162, section 2.2) derive the critical batch size.

Its gradient noise does not depend on the parameters, so their formulas hold along the whole path, not only at one point.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from largebatch.core import Task, generator
from largebatch.tasks._problem import Problem, stable_recipe


@dataclass(frozen=True, eq=False)
class NoisyQuadratic(Problem):
    """Per-example loss w'Hw / 2 + e_i'w: the gradient is Hw + e_i, with noise that depends on no parameter.

    The e_i have mean zero and covariance Sigma over the training set *exactly*, so that the answers do not have a
    sampling error of their own.

    Args:
        curvature: H (p, p) float64, symmetric.
        noise: Sigma (p, p) float64, symmetric, without negative eigenvalues.
        start: where training starts (p,) float64.
        samples: number of examples, more than p.
        seed: of the e_i.

    Raises:
        ValueError: shapes that do not fit, an asymmetric or negative matrix, too few samples; lists every mistake.
    """

    curvature: Tensor
    noise: Tensor
    start: Tensor
    samples: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        p = self.start.numel()
        mistakes = [
            f"{name} {tuple(matrix.shape)}{'' if matrix.shape != (p, p) else ', not symmetric'}"
            for name, matrix in (("curvature", self.curvature), ("noise", self.noise))
            if matrix.shape != (p, p) or not torch.allclose(matrix, matrix.T)
        ]
        if not mistakes and torch.linalg.eigvalsh(self.noise)[0] < -1e-12 * self.noise.abs().max():
            mistakes.append("noise with a negative eigenvalue")
        if self.samples <= p:
            mistakes.append(f"{self.samples} samples")
        if mistakes:
            raise ValueError(
                f"expected symmetric curvature and noise of shape {(p, p)} and more than {p} samples, "
                f"got {'; '.join(mistakes)}"
            )

    def loss(self, parameters: Tensor) -> float:
        w = parameters.detach()
        return float(w @ self.curvature @ w) / 2

    def gradient(self, parameters: Tensor) -> Tensor:
        return self.curvature @ parameters.detach()

    def hessian(self, parameters: Tensor) -> Tensor:
        return self.curvature

    def noise_covariance(self, parameters: Tensor) -> Tensor:
        return self.noise

    def task(self) -> Task:
        return Task(
            name=type(self).__name__,
            model=partial(Bowl, self.curvature, self.start),
            train=self._examples("train"),
            test=self._examples("test"),
            loss=output_is_loss,
            recipe=stable_recipe(self.curvature),
        )

    def _examples(self, purpose: str) -> tuple[Tensor, Tensor]:
        """The e_i (samples, p), and targets that nothing reads."""
        drawn = torch.randn(self.samples, len(self.start), generator=generator(self.seed, purpose), dtype=torch.float64)
        centred = drawn - drawn.mean(dim=0)
        whitened = torch.linalg.qr(centred).Q * self.samples**0.5  # orthogonal to the ones, as centred is
        values, vectors = torch.linalg.eigh(self.noise)
        root = vectors * values.clamp(min=0).sqrt() @ vectors.T
        return whitened @ root, torch.zeros(self.samples, dtype=torch.float64)


class Bowl(nn.Module):
    """w'Hw / 2 + e'w for each e: the model of a noisy quadratic, whose output already is the loss."""

    curvature: Tensor

    def __init__(self, curvature: Tensor, start: Tensor) -> None:
        super().__init__()
        self.register_buffer("curvature", curvature)
        self.w = nn.Parameter(start.clone())

    def forward(self, shifts: Tensor) -> Tensor:
        """shifts: (n, p). Returns (n,)."""
        return self.w @ self.curvature @ self.w / 2 + shifts @ self.w


def output_is_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of a model that computes it. Both (n,)."""
    return outputs
