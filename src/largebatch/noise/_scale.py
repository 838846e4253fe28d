"""The gradient noise scale, from partial gradients that training computes anyway.

McCandlish et al. 2018 (arXiv 1812.06162), appendix A.1: with batches B_big and B_small of the same gradient,

    |G|²   ← (B_big·|G_big|² − B_small·|G_small|²) / (B_big − B_small)
    tr(Σ)  ← (|G_small|² − |G_big|²) / (1/B_small − 1/B_big),      B_simple = tr(Σ)/|G|².

Here B_small is every part of a global batch, of unequal size b_i, and B_big the whole. As E|G_b|² = |G|² + tr(Σ)/b, the
mean over the parts pairs with the mean of 1/b_i: exact for unequal parts. Both estimates are unbiased and may be
negative; they are averaged before the ratio is taken.
"""

from typing import Any, final

import torch
from torch import Tensor

from largebatch.core import EpochView, Partials, Request, View

__all__ = ["NoiseScale", "noise_and_signal"]


def noise_and_signal(partials: Partials, gradient_squared_norm: Tensor) -> tuple[Tensor, Tensor]:
    """Unbiased `(tr Σ, |G|²)` of one update, 0-D float64 each.

    Args:
        partials: at least two parts.
        gradient_squared_norm: of the mean gradient over all parts.

    Raises:
        ValueError: fewer than two parts: equal small and large batches say nothing about the noise.
    """
    if len(partials.counts) < 2:
        raise ValueError(
            "noise scale: expected at least 2 partial gradients of a batch, got "
            f"{len(partials.counts)}: use a ghost_batch_size of at most half the batch, or two accumulation steps"
        )
    big = gradient_squared_norm.double()
    small = partials.squared_norms.mean()
    inverse_small = (1.0 / partials.counts).mean()
    inverse_big = 1.0 / partials.counts.sum()
    trace = (small - big) / (inverse_small - inverse_big)
    return trace, big - trace * inverse_big


@final
class NoiseScale:
    """An observer that estimates tr(Σ), |G|² and B_simple = tr(Σ)/|G|² over a run.

    Args:
        every: updates between looks; a look costs a few passes over the gradient.
        parts: partial gradients a look splits the batch into.
    """

    name = "noise_scale"

    def __init__(self, every: int = 10, parts: int = 4):
        self._every = every
        self._parts = parts
        self._sums = torch.zeros(2, dtype=torch.float64)
        self._looks = 0

    @property
    def looks(self) -> int:
        """Updates looked at."""
        return self._looks

    @property
    def trace(self) -> float:
        """Mean estimate of tr(Σ); NaN before the first look."""
        return self._mean(0)

    @property
    def squared_norm(self) -> float:
        """Mean estimate of |G|²; NaN before the first look."""
        return self._mean(1)

    @property
    def noise_scale(self) -> float:
        """B_simple, in samples; NaN before the first look."""
        return self.trace / self.squared_norm if self._looks and self.squared_norm else float("nan")

    def wants(self, update: int) -> Request | None:
        """Partial gradients and the norm of the whole one, at every k-th update."""
        return Request(parts=self._parts, norms=True) if update % self._every == 0 else None

    def see(self, view: View) -> None:
        """Add one update's estimates; a last batch of a single ghost has nothing to compare and is passed over."""
        if view.partials is None or view.gradient_squared_norm is None or len(view.partials.counts) < 2:
            return
        estimates = noise_and_signal(view.partials, view.gradient_squared_norm)
        self._sums += torch.stack(estimates).cpu()
        self._looks += 1

    def see_epoch(self, view: EpochView) -> None:
        """Nothing: the estimates are per update."""

    def state_dict(self) -> dict[str, Any]:
        """Sums and count."""
        return {"sums": self._sums.clone(), "looks": self._looks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the sums."""
        self._sums = state["sums"].clone()
        self._looks = state["looks"]

    def _mean(self, index: int) -> float:
        return float(self._sums[index]) / self._looks if self._looks else float("nan")
