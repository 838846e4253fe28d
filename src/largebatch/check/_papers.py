"""The papers' LARS, LAMB and SAM, written slowly and plainly: one tensor after another, in float64, nothing in place.

Letters as in the papers: LARS, You, Gitman and Ginsburg 2017 (arXiv 1708.03888), Algorithm 1: γ rate, η trust
coefficient, β decay, m momentum, v buffer, λ local rate. LAMB, You et al. 2020 (arXiv 1904.00962), Algorithm 2: η rate, λ
decay, φ. SAM, Foret et al. 2021 (arXiv 2010.01412), equation 2 with p = 2.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

__all__ = ["LAMB", "LARS", "SGD", "Gradient", "Rule", "sam_update"]

Weights = Sequence[Tensor]
Gradient = Callable[[Weights], list[Tensor]]
"""Weights → gradient of each tensor."""


class Rule(ABC):
    """One tensor's update; it remembers each tensor's state by its position."""

    def update(self, weights: Weights, gradients: Weights, rate: float) -> list[Tensor]:
        """The weights after one update."""
        return [self._one(i, w, g, rate) for i, (w, g) in enumerate(zip(weights, gradients, strict=True))]

    @abstractmethod
    def _one(self, i: int, w: Tensor, g: Tensor, rate: float) -> Tensor:
        """Tensor i after the update."""


@final
class LARS(Rule):
    """λ = η·‖w‖/(‖g‖ + β‖w‖);  v ← m·v + γ·λ·(g + βw);  w ← w − v.

    `rate_inside=False`: v ← m·v + λ·(g + βw);  w ← w − γ·v, the convention of torch.optim.SGD, which most ports have.
    """

    def __init__(self, momentum: float, decay: float, trust: float, *, rate_inside: bool = True):
        self._momentum, self._decay, self._trust, self._rate_inside = momentum, decay, trust, rate_inside
        self._v: dict[int, Tensor] = {}

    def _one(self, i: int, w: Tensor, g: Tensor, rate: float) -> Tensor:
        local_rate = self._trust * w.norm() / (g.norm() + self._decay * w.norm())
        inside, outside = (rate, 1.0) if self._rate_inside else (1.0, rate)
        before = self._v.get(i, torch.zeros_like(w))
        self._v[i] = self._momentum * before + inside * local_rate * (g + self._decay * w)
        return w - outside * self._v[i]


@final
class LAMB(Rule):
    """r = m̂/(√v̂ + ε);  x ← x − η·φ(‖x‖)/‖r + λx‖·(r + λx), with φ(z) = z."""

    def __init__(self, betas: tuple[float, float], eps: float, decay: float):
        self._betas, self._eps, self._decay = betas, eps, decay
        self._m: dict[int, Tensor] = {}
        self._v: dict[int, Tensor] = {}
        self._t: dict[int, int] = {}

    def _one(self, i: int, w: Tensor, g: Tensor, rate: float) -> Tensor:
        beta1, beta2 = self._betas
        t = self._t[i] = self._t.get(i, 0) + 1
        m = self._m[i] = beta1 * self._m.get(i, torch.zeros_like(w)) + (1 - beta1) * g
        v = self._v[i] = beta2 * self._v.get(i, torch.zeros_like(w)) + (1 - beta2) * g**2
        r = (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + self._eps)
        step = r + self._decay * w
        return w - rate * w.norm() / step.norm() * step


@final
class SGD(Rule):
    """w ← w − η·g: what SAM is checked with."""

    def _one(self, i: int, w: Tensor, g: Tensor, rate: float) -> Tensor:
        return w - rate * g


def sam_update(rule: Rule, weights: Weights, gradient: Gradient, rate: float, rho: float) -> list[Tensor]:
    """ε = ρ·g/‖g‖ over all tensors together; the step from w with the gradient at w + ε."""
    g = gradient(weights)
    length = torch.stack([layer.norm() for layer in g]).norm()
    there = [w + rho * layer / length for w, layer in zip(weights, g, strict=True)]
    return rule.update(weights, gradient(there), rate)
