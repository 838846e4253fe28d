"""Three routes to the critical batch: what each says, with its interval and its cost.

The critical batch is where a larger batch has lost half of what its samples were worth: E(B_crit) = 2·E_min (McCandlish et
al. 2018, arXiv 1812.06162). The routes, cheapest first:

noise scale   B_simple = tr(Σ)/|G|², measured while training. Equal to B_crit where the Hessian is a multiple of the identity
              and the rate is well tuned; in their table 1 it is 0.05 to 8 times B_crit.
branches      from one checkpoint the same samples at several batches (Merrill et al. 2025, arXiv 2505.23971). Ours: the
              loss falls by D(B) in n samples, so a unit of loss costs n/D(B) samples, and that follows the same hyperbola.
              Theirs, beside it: the largest batch whose loss is within a tolerance of every smaller one's.
sweep         samples to a target at several batches (Shallue et al. 2019, arXiv 1811.03600), and the hyperbola through them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from largebatch.noise import NoiseEstimate
from largebatch.results import Result
from largebatch.target import HyperbolaFit, fit_hyperbola

__all__ = ["Route", "by_branches", "by_noise_scale", "by_sweep", "largest_recovered"]


@final
@dataclass(frozen=True)
class Route(Result):
    """The critical batch by one route.

    Args:
        route: "noise scale", "branches" or "sweep".
        batch_size, low, high: in samples, with the 95 % interval; NaN where there is not enough data, infinite where
            no batch that was tried lost anything.
        cost_samples: samples trained on for this alone.
        note: what limits it, or why there is no number.
    """

    route: str
    batch_size: float
    low: float
    high: float
    cost_samples: float
    note: str = ""

    @property
    def is_known(self) -> bool:
        """Whether there is a number with an interval."""
        return not (math.isnan(self.batch_size) or math.isnan(self.low) or math.isnan(self.high))


def by_noise_scale(noise: NoiseEstimate, cost_samples: float = 0.0) -> Route:
    """Route (a).

    Args:
        noise: over the stretch of training that counts.
        cost_samples: 0 where training went on anyway.
    """
    found = noise.noise_scale
    return Route("noise scale", found.value, found.low, found.high, cost_samples, found.note)


def by_branches(
    start_loss: float,
    losses: Mapping[int, Sequence[float]],
    spent: Mapping[int, float],
    *,
    cost_samples: float,
    tolerance: float = 0.01,
) -> Route:
    """Route (b).

    Args:
        start_loss: of the checkpoint.
        losses: by global batch, with which each branch ended, one for each seed.
        spent: by global batch, the samples of one branch.
        cost_samples: of all branches.
        tolerance: of Merrill et al.'s rule, in units of the loss.
    """
    fell = {size: [start_loss - loss for loss in ends] for size, ends in losses.items()}
    reached = {size: [spent[size] / fall for fall in falls if fall > 0] for size, falls in fell.items()}
    most = max((cost for costs in reached.values() for cost in costs), default=math.nan)
    # A branch that went up would cost more than any that came down; how much more, it does not say.
    missed = {size: [most] * sum(fall <= 0 for fall in falls) for size, falls in fell.items()}
    largest = largest_recovered(losses, tolerance)
    theirs = f"by Merrill et al.'s rule, within {tolerance:g} of every smaller batch's loss: {largest}"
    return _by_hyperbola(
        "branches", reached, missed, dict.fromkeys(losses, 1e-9 * most), cost_samples=cost_samples, remark=theirs
    )


def by_sweep(
    reached: Mapping[int, Sequence[float]],
    missed: Mapping[int, Sequence[float]],
    periods: Mapping[int, float],
    *,
    cost_samples: float,
) -> Route:
    """Route (c).

    Args:
        reached, missed: samples by global batch, as for `target.fit_hyperbola`.
        periods: samples between two looks, by batch.
        cost_samples: of all runs, tuning included.
    """
    return _by_hyperbola("sweep", reached, missed, periods, cost_samples=cost_samples)


def largest_recovered(losses: Mapping[int, Sequence[float]], tolerance: float) -> int:
    """The largest batch up to which every branch's mean loss is within `tolerance` of each smaller one's."""
    sizes = sorted(losses)
    means = {size: sum(losses[size]) / len(losses[size]) for size in sizes}
    largest, least = sizes[0], means[sizes[0]]
    for size in sizes[1:]:
        if means[size] > least + tolerance:
            break
        largest, least = size, min(least, means[size])
    return largest


def _by_hyperbola(
    route: str,
    reached: Mapping[int, Sequence[float]],
    missed: Mapping[int, Sequence[float]],
    periods: Mapping[int, float],
    *,
    cost_samples: float,
    remark: str = "",
) -> Route:
    enough = sum(1 for values in reached.values() if len(values))
    if enough < 3:
        note = f"not enough data yet: {enough} batches made progress; 3 give an interval"
        return Route(route, math.nan, math.nan, math.nan, cost_samples, _joined(note, remark))
    fit = fit_hyperbola(reached, missed=missed, period=periods)
    critical = fit.critical_batch_size
    note = _joined(fit.reason if fit.fits else f"does not fit: {fit.reason}", _extrapolated(fit), remark)
    return Route(route, critical.value, critical.low, critical.high, cost_samples, note)


def _extrapolated(fit: HyperbolaFit) -> str:
    """A critical batch beyond what was tried rests on the curve's shape."""
    sizes = [cell.batch_size for cell in fit.batches if cell.reached]
    if fit.critical_batch_size.value > max(sizes):
        return f"beyond the largest batch that got there, {max(sizes):g}: try larger ones"
    if fit.critical_batch_size.value < min(sizes):
        return f"below the smallest batch, {min(sizes):g}: try smaller ones"
    return ""


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
