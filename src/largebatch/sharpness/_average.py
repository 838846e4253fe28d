"""The average loss around the weights: E f(x + e) − f(x) for Gaussian e, which is ½σ²·tr H to second order.

Draws come in pairs e, −e: what is odd in e, above all the slope, cancels in each pair and leaves the interval narrower.
The average case of Andriushchenko et al. 2023 (arXiv 2302.07011, section 2), with σ for their ρ.
"""

import math

import torch

from largebatch.core import Risk, generator
from largebatch.results import mean_interval
from largebatch.sharpness._search import Bar, Finding, require_finite
from largebatch.sharpness._worst_case import ADAPTIVE

__all__ = ["average"]


def average(
    risk: Risk, seed: int, bar: Bar, *, sigma: float = 0.01, pairs: int = 10, adaptive: bool = False
) -> Finding:
    """The mean over pairs of draws, with its t-interval.

    Args:
        sigma: σ, the standard deviation of each coordinate.
        pairs: of draws, two values each.
        adaptive: σ|x_i| instead of σ.
    """
    origin = risk.point()
    scale = sigma * (origin.abs() if adaptive else torch.ones_like(origin))
    with risk.displaced() as move:

        def value_at(displacement: torch.Tensor) -> float:
            move(displacement)
            bar.update(1)
            return risk.value()

        loss = value_at(torch.zeros_like(origin))
        require_finite(loss)
        gains: list[float] = []
        for pair in range(pairs):
            noise = torch.randn(len(origin), generator=generator(seed, "average", pair), dtype=torch.float32)
            e = scale * noise.to(origin)
            gains.append((value_at(e) + value_at(-e)) / 2 - loss)
    details = {"loss": loss, "sigma": sigma, "pairs": float(pairs)}
    unchanged_by = ADAPTIVE if adaptive else None
    bad = sum(not math.isfinite(gain) for gain in gains)
    if bad:
        note = f"{bad} of {pairs} pairs had a loss that is not finite, so there is no mean; take a smaller sigma"
        return Finding(math.nan, details=details, note=note, unchanged_by=unchanged_by)
    mean = mean_interval(gains)
    note = (
        "one pair has no interval: take at least 2" if pairs == 1 else "mean over the draws, with its 95 % t-interval"
    )
    return Finding(mean.value, mean.stderr, mean.low, mean.high, details, note, unchanged_by)
