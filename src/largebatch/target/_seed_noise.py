"""What the seeds of each batch say of their mean, when every value is known only to an interval.

A run is evaluated once a period, so the target was crossed in (value − period, value]; a run that ended without it needed
more than it was given. The logarithm of the crossing is Normal(μ_i, σ²): σ, the seed noise, is common to all
batches i, and exp(μ_i) is the median over seeds. The likelihood of a run is the Normal mass of its interval.

σ maximises the restricted likelihood, in which every μ_i is integrated out (Harville 1974, Biometrika 61:383): with exact
values that is the usual s² with N − m degrees of freedom, so few seeds do not bias it. μ_i and its variance are those
of the normalised likelihood at this σ; where all seeds fall into one period that is the period's middle and
width²/12, not 0. Where the period is longer than the spread of the seeds, where in it they fall is no chance; intervals
then cover a little less than they say (simulated: 92.6 % for 95, at a period of a third of the value and 4 seeds).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from largebatch.results import Result
from largebatch.target._arrays import Floats
from largebatch.target._distributions import least, log_normal_mass

__all__ = ["BatchRuns", "Runs", "smallest_gap", "summaries"]

_LOG_SIGMA = (math.log(1e-4), math.log(3.0))
_REACH = 7.0  # the likelihood of a mean is followed this many of its standard errors
_NODES = 100


@dataclass(frozen=True)
class Runs:
    """The runs at one batch: the target was crossed between `low` and `high`, both (n,) in samples; missed: high = ∞."""

    batch_size: float
    low: Floats  # (n,)
    high: Floats  # (n,)

    @property
    def reached(self) -> int:
        """How many runs reached the target."""
        return int(np.isfinite(self.high).sum())


@dataclass(frozen=True)
class BatchRuns(Result):
    """The runs at one batch, as the fit uses them.

    Args:
        batch_size: global, in samples.
        runs, reached: how many there were, and how many reached the target.
        log_mean, log_stderr: of the mean over seeds of ln(samples to target), the error from seeds and evaluation
            period alone; NaN where none reached it.
        longest: the most that a run without the target was given; NaN where all reached it.
    """

    batch_size: float
    runs: int
    reached: int
    log_mean: float
    log_stderr: float
    longest: float


def smallest_gap(values: Sequence[Sequence[float]]) -> float:
    """The evaluation period read off the values: the smallest gap between two values of one batch, over all batches.

    With a fixed period the values of a batch are multiples of it, so the gap is their greatest common step as soon as
    any two runs differ by one period. NaN where no batch has two different values.
    """
    gaps = [float(np.min(np.diff(np.unique(cell)))) for cell in values if len(set(cell)) > 1]
    return min(gaps, default=math.nan)


def summaries(cells: Sequence[Runs]) -> tuple[tuple[BatchRuns, ...], float, int]:
    """Every batch with its mean, the seed noise σ, and the degrees of freedom of σ (0: it cannot be told, and is 0)."""
    means = [cell for cell in cells if cell.reached]
    freedom = sum(len(cell.low) for cell in means) - len(means)

    def minus_log_likelihood(log_sigma: float) -> float:
        return -sum(_moments(cell, math.exp(log_sigma))[0] for cell in means)

    sigma = math.exp(least(minus_log_likelihood, *_LOG_SIGMA)) if freedom else math.exp(_LOG_SIGMA[0])
    return tuple(_summary(cell, sigma) for cell in cells), sigma if freedom else 0.0, freedom


def _summary(cell: Runs, sigma: float) -> BatchRuns:
    missed = cell.low[np.isinf(cell.high)]
    longest = float(missed.max()) if len(missed) else math.nan
    _, mean, variance = _moments(cell, sigma) if cell.reached else (0.0, math.nan, math.nan)
    return BatchRuns(cell.batch_size, len(cell.low), cell.reached, mean, math.sqrt(variance), longest)


def _moments(cell: Runs, sigma: float) -> tuple[float, float, float]:
    """ln of the integral of the likelihood over μ, and the mean and variance of μ under it."""
    with np.errstate(divide="ignore"):
        intervals = np.log(np.stack([cell.low, cell.high]))  # (2, n); ln 0 = −∞
    (low, high), counts = np.unique(intervals, axis=1, return_counts=True)  # seeds often share a period
    mu = _grid(intervals, sigma)  # (k,)
    log_likelihood = counts @ log_normal_mass((low[:, None] - mu) / sigma, (high[:, None] - mu) / sigma)  # (k,)
    top = float(log_likelihood.max())
    weights = np.exp(log_likelihood - top)
    total = float(weights.sum())
    mean = float(weights @ mu) / total
    variance = float(weights @ (mu - mean) ** 2) / total
    return top + math.log(total * float(mu[1] - mu[0])), mean, variance


def _grid(intervals: Floats, sigma: float) -> Floats:
    """Where the likelihood of a mean lies, (k,): around the values; anywhere above them where runs missed the target."""
    known = intervals[:, np.isfinite(intervals).all(axis=0)]
    ends = intervals[np.isfinite(intervals)]
    if known.shape[1] < intervals.shape[1]:
        start, stop = float(ends.min()), float(ends.max())
        return np.linspace(start - _REACH * sigma, stop + _REACH * sigma, 4 * _NODES)
    middle, width = float(known.mean()), float(np.max(known[1] - known[0]))
    reach = _REACH * sigma / math.sqrt(known.shape[1]) + width
    return np.linspace(middle - reach, middle + reach, _NODES)
