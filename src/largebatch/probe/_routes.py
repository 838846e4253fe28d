"""Three routes to the critical batch: what each says, with its interval and its cost.

The critical batch is where a larger batch has lost half of what its samples were worth: E(B_crit) = 2·E_min (McCandlish et
al. 2018, arXiv 1812.06162). The routes, cheapest first:

noise scale   B_simple = tr(Σ)/|G|², measured while training. Equal to B_crit where the Hessian is a multiple of the identity
              and the rate is well tuned; in their table 1 it is 0.05 to 8 times B_crit.
branches      from one checkpoint the same samples at several batches (Merrill et al. 2025, arXiv 2505.23971). Ours: samples
              to a loss that every branch which gets anywhere comes to, a sweep over a short stretch. Theirs, beside it: the
              largest batch whose loss is within a tolerance of every smaller one's.
sweep         samples to a target at several batches (Shallue et al. 2019, arXiv 1811.03600), and the hyperbola through them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import final

from largebatch.noise import NoiseEstimate
from largebatch.results import Result
from largebatch.target import HyperbolaFit, fit_hyperbola

__all__ = ["Route", "by_branches", "by_noise_scale", "by_sweep", "largest_recovered"]


Path = Sequence[tuple[float, float]]
_OF_THE_SLOWEST = 0.75


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
    start_loss: float, paths: Mapping[int, Sequence[Path]], *, cost_samples: float, tolerance: float = 0.01
) -> Route:
    """Route (b).

    Args:
        start_loss: of the checkpoint.
        paths: by global batch, one for each seed: `(samples, loss)` at each look, the same looks for all.
        cost_samples: of all branches, and of the trunk where it was trained for them.
        tolerance: of Merrill et al.'s rule, in units of the loss.
    """
    ends = {size: [_late_loss(path) for path in rows] for size, rows in paths.items()}
    theirs = f"by Merrill et al.'s rule, within {tolerance:g} of every smaller batch's loss: "
    theirs += str(largest_recovered(ends, tolerance))
    target = common_target(start_loss, ends)
    crossings = {size: [_crossing(start_loss, path, target) for path in rows] for size, rows in paths.items()}
    reached = {size: [value for value in values if value is not None] for size, values in crossings.items()}
    missed = {
        size: [path[-1][0] for path, value in zip(paths[size], values, strict=True) if value is None]
        for size, values in crossings.items()
    }
    periods = dict.fromkeys(paths, 1e-6)  # between looks the loss is interpolated
    return _by_hyperbola("branches", reached, missed, periods, cost_samples=cost_samples, remark=theirs)


def common_target(start_loss: float, ends: Mapping[int, Sequence[float]]) -> float:
    """A loss that all batches get to which get anywhere: three quarters of the way of the slowest.

    Args:
        start_loss: of the checkpoint.
        ends: by global batch, the loss of each seed's branch at its end.
    """
    fell = [start_loss - fmean(losses) for losses in ends.values()]
    return start_loss - _OF_THE_SLOWEST * min((fall for fall in fell if fall > 0), default=math.inf)


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


def _late_loss(path: Path) -> float:
    """The mean over the last quarter: a single loss wavers with the noise of the last few updates."""
    return fmean([loss for samples, loss in path if 4 * samples > 3 * path[-1][0]])


def _crossing(start_loss: float, path: Path, target: float) -> float | None:
    """Samples at which the loss first comes down to the target, on straight lines between looks; None if it does not."""
    before = (0.0, start_loss)
    for samples, loss in path:
        if loss <= target:
            return before[0] + (samples - before[0]) * (before[1] - target) / (before[1] - loss)
        before = (samples, loss)
    return None


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
        note = f"not enough data yet: {enough} batches got anywhere; 3 give an interval"
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
