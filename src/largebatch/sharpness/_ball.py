"""Ball: a unit ball of u, in the Euclidean or the maximum norm, and the displacements e = A·(s∘u) that it stands for.

    Metric 2.1     s = ε(|A⁺x| + 1)   maximum norm     Keskar et al. 2017 (arXiv 1609.04836)
    SAM            s = ρ              Euclidean        Foret et al. 2021 (arXiv 2010.01412)
    ASAM           s = ρ|x|           Euclidean        Kwon et al. 2021 (arXiv 2102.11600)
    adaptive ℓ∞    s = ρ|x|           maximum norm     Andriushchenko et al. 2023 (arXiv 2302.07011)

A is the identity but for Keskar's random subspaces. A scale of 0 holds its coordinate fixed, and nothing is divided by it.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from largebatch.core import generator
from largebatch.sharpness._columns import RandomColumns

__all__ = ["Ball"]


@dataclass(frozen=True, eq=False)
class Ball:
    """‖u‖ ≤ 1.

    Args:
        norm: Euclidean ("2") or maximum ("inf").
        scale: s, (n,).
        columns: A, (P, n); None for the identity.
        seed: of the directions taken where the gradient vanishes.
    """

    norm: Literal["2", "inf"]
    scale: Tensor
    columns: RandomColumns | None = None
    seed: int = 0

    def displacement(self, z: Tensor) -> Tensor:
        """e = A z, (P,), of z = s∘u, (n,)."""
        return z if self.columns is None else self.columns.expand(z)

    def slope(self, gradient: Tensor) -> Tensor:
        """The gradient by z, A'g (n,), from that by e, g (P,)."""
        return gradient if self.columns is None else self.columns.pull(gradient)

    def expand(self, u: Tensor) -> Tensor:
        """e (P,) of u (n,)."""
        return self.displacement(self.scale * u)

    def pull(self, gradient: Tensor) -> Tensor:
        """The gradient by u, (n,), from that by e (P,)."""
        return self.scale * self.slope(gradient)

    def project(self, u: Tensor) -> Tensor:
        """The nearest point of the ball, (n,)."""
        if self.norm == "inf":
            return u.clamp(-1, 1)
        return u / torch.linalg.vector_norm(u).clamp(min=1)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The point of the ball where a linear loss with this gradient by u is highest, (n,).

        Where the gradient vanishes, as at an exact minimum, any point would do and a random one is taken: a search that
        stayed there would find nothing.
        """
        if self.norm == "inf":
            signs = gradient.sign()
            return torch.where(signs == 0, self._random.sign(), signs) if bool((signs == 0).any()) else signs
        size = torch.linalg.vector_norm(gradient)
        if size == 0:
            gradient = self._random * (self.scale != 0)
            size = torch.linalg.vector_norm(gradient)
        return gradient / size.clamp(min=torch.finfo(size.dtype).tiny)

    @cached_property
    def _random(self) -> Tensor:
        """(n,), drawn once: some gradients have zeros at every step."""
        drawn = torch.randn(len(self.scale), generator=generator(self.seed, "ball"), dtype=torch.float32)
        return drawn.to(self.scale)
