"""The worst loss in a ball around the weights: max over e of f(x + e) − f(x).

    sam            ‖e‖₂ ≤ ρ             Foret et al. 2021 (arXiv 2010.01412), whose step is the first order
    asam           ‖e/|x|‖₂ ≤ ρ         Kwon et al. 2021 (arXiv 2102.11600), element-wise T = |x|; ρ about ten times SAM's
    adaptive_linf  |e_i| ≤ ρ|x_i|       Andriushchenko et al. 2023 (arXiv 2302.07011): 20 steps of Auto-PGD, ρ = 1e-3

The first order is the first step of Auto-PGD, so all three are one search in three balls. A weight of exactly 0 stays
where it is in the last two. Over the whole data set, as Metric 2.1: Andriushchenko et al. average the worst cases of
batches of 128, which are larger.
"""

import copy
from typing import Literal

import torch
from torch import Tensor

from largebatch.core import Loss, Risk
from largebatch.sharpness._ascent import auto_pgd
from largebatch.sharpness._ball import Ball
from largebatch.sharpness._search import Bar, Finding, searching

__all__ = ["ADAPTIVE", "adaptive_linf", "asam", "sam"]

ADAPTIVE = "every rescaling of layers, units or weights that leaves the function as it is (Dinh et al. 2017)"


def sam(risk: Risk, seed: int, bar: Bar, *, rho: float = 0.05, steps: int = 1) -> Finding:
    """In the Euclidean ball.

    Args:
        rho: ρ, its radius.
        steps: of ascent; 1 is the first order: e = ρ·g/‖g‖.
    """
    return _worst_case(risk, seed, bar, "2", rho=rho, steps=steps, is_adaptive=False)


def asam(risk: Risk, seed: int, bar: Bar, *, rho: float = 0.5, steps: int = 1) -> Finding:
    """In the ellipsoid of the weights.

    Args:
        rho: ρ, the radius in units of the weights.
        steps: of ascent; 1 is the first order: e = ρ·x²g/‖xg‖.
    """
    return _worst_case(risk, seed, bar, "2", rho=rho, steps=steps, is_adaptive=True)


def adaptive_linf(
    risk: Risk, seed: int, bar: Bar, *, rho: float = 1e-3, steps: int = 20, normalise_logits: bool = False
) -> Finding:
    """In the box of the weights.

    Args:
        rho: ρ, the half width in units of the weights.
        steps: of Auto-PGD.
        normalise_logits: give the loss logits with mean 0 and length 1 in each example, as in the paper's evaluation:
            their scale then does not matter.
    """
    if not normalise_logits:
        return _worst_case(risk, seed, bar, "inf", rho=rho, steps=steps, is_adaptive=True)
    twin = copy.copy(risk)  # the same model and data; it counts its own passes
    twin.loss, twin.passes = _of_normalised(risk.loss), 0.0
    try:
        unchanged_by = f"{ADAPTIVE}; the scale of the logits"
        return _worst_case(twin, seed, bar, "inf", rho=rho, steps=steps, is_adaptive=True, unchanged_by=unchanged_by)
    finally:
        risk.passes += twin.passes


def _worst_case(
    risk: Risk, seed: int, bar: Bar, norm: Literal["2", "inf"], *, rho: float, steps: int, is_adaptive: bool,
    unchanged_by: str | None = None,
) -> Finding:  # fmt: skip
    with searching(risk, bar) as search:
        weights = search.origin.abs() if is_adaptive else torch.ones_like(search.origin)
        auto_pgd(search, Ball(norm, rho * weights, seed=seed), steps)
    return search.finding(search.gain, {"rho": rho, "steps": steps}, unchanged_by)


def _of_normalised(loss: Loss) -> Loss:
    def normalised(outputs: Tensor, targets: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """outputs: (n, classes) logits, or (n, tokens, classes)."""
        centred = outputs - outputs.mean(dim=-1, keepdim=True)
        lengths = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
        return loss(centred / lengths.clamp(min=1e-10), targets)

    return normalised
