"""Intervals over seeds: Student's t for a mean, for a difference and for a ratio of two groups of runs; and lines.

Student 1908: x̄ ± t_{n−1, (1+level)/2} · s/√n. With 3 to 5 seeds the bootstrap covers only 74–83 % where it promises
95 (DESIGN, invariant 6), so t it is. Runs are paired by seed because they share initial weights and the order of the
data: the difference varies less than either. Groups that share no seeds are compared by Welch 1947, which does not take
their variances for equal. A ratio of positive numbers is the difference of their logarithms, and so is its interval.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from largebatch.results._mistakes import refuse
from largebatch.results._result import Estimate, Result

__all__ = [
    "FEWEST_SEEDS",
    "LineFit",
    "level_mistakes",
    "line_fit",
    "mean_interval",
    "paired_difference",
    "paired_ratio",
    "t_quantile",
    "welch_difference",
    "welch_ratio",
]

FEWEST_SEEDS = 3
"""Of an interval over seeds: Student's t with one degree of freedom is 12.7 wide, and two seeds tell next to nothing."""


def mean_interval(values: Sequence[float], *, level: float = 0.95, unit: str = "") -> Estimate:
    """The mean over seeds with its t-interval.

    Args:
        values: one per seed, in `unit`.
        level: the probability with which the interval covers the true mean, between 0 and 1.

    Returns:
        The estimate; its error and interval are NaN for a single value, and `note` says so.

    Raises:
        ValueError: no values, values that are not finite, a level outside (0, 1); all are told.
    """
    refuse("interval over seeds", _mistakes(values, "values", 1) + level_mistakes(level))
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        note = "one seed has no interval: run at least 2, and 3 to compare"
        return Estimate(mean, math.nan, math.nan, math.nan, n, unit, level, note)
    stderr = statistics.stdev(values, mean) / math.sqrt(n)
    half = t_quantile(n - 1, (1 + level) / 2) * stderr
    note = "" if stderr > 0 else "all values are equal: the interval has no width, though the next seed may differ"
    return Estimate(mean, stderr, mean - half, mean + half, n, unit, level, note)


def paired_difference(a: Sequence[float], b: Sequence[float], *, level: float = 0.95, unit: str = "") -> Estimate:
    """The mean of a − b over seeds with its paired t-interval.

    Args:
        a, b: one value per seed, in the same order of seeds, in `unit`.
        level: as for `mean_interval`.

    Raises:
        ValueError: fewer than 3 pairs, unequal numbers, values that are not finite, a level outside (0, 1); all are told.
    """
    mistakes = _mistakes(a, "a", 3) + _mistakes(b, "b", 3) + level_mistakes(level)
    if len(a) != len(b):
        mistakes.append(
            f"a, b: expected one value each per seed, got {len(a)} and {len(b)}; compare only seeds that both have"
        )
    refuse("interval over seeds", mistakes)
    return mean_interval([x - y for x, y in zip(a, b, strict=True)], level=level, unit=unit)


def paired_ratio(a: Sequence[float], b: Sequence[float], *, level: float = 0.95) -> Estimate:
    """The geometric mean of a ÷ b over seeds, with the paired t-interval of its logarithm.

    Args:
        a, b: one positive value per seed, in the same order of seeds.
        level: as for `mean_interval`.

    Returns:
        The ratio; `stderr` is that of its logarithm times the ratio, and the interval is not symmetric about it.

    Raises:
        ValueError: values that are not positive, and all that `paired_difference` refuses.
    """
    refuse("interval over seeds", _not_positive(a, "a") + _not_positive(b, "b"))
    return _exponential(paired_difference(_logs(a), _logs(b), level=level))


def welch_difference(a: Sequence[float], b: Sequence[float], *, level: float = 0.95, unit: str = "") -> Estimate:
    """The difference of the means of two groups that share no seeds, with Welch's t-interval.

    Welch 1947: s²_a/n_a + s²_b/n_b is the variance, with the degrees of freedom of Satterthwaite 1946.

    Args:
        a, b: one value per seed, in `unit`; the groups may differ in size and in spread.
        level: as for `mean_interval`.

    Returns:
        mean(a) − mean(b); `n` is the size of the smaller group.

    Raises:
        ValueError: fewer than 3 values in a group, values that are not finite, a level outside (0, 1); all are told.
    """
    refuse("interval over seeds", _mistakes(a, "a", 3) + _mistakes(b, "b", 3) + level_mistakes(level))
    n = min(len(a), len(b))
    value = statistics.fmean(a) - statistics.fmean(b)
    parts = [statistics.variance(group) / len(group) for group in (a, b)]
    stderr = math.sqrt(sum(parts))
    if stderr == 0:
        note = "all values of a group are equal: the interval has no width, though the next seed may differ"
        return Estimate(value, 0.0, value, value, n, unit, level, note)
    weights = [part**2 / (len(group) - 1) for part, group in zip(parts, (a, b), strict=True)]
    half = t_quantile(sum(parts) ** 2 / sum(weights), (1 + level) / 2) * stderr
    return Estimate(value, stderr, value - half, value + half, n, unit, level)


def welch_ratio(a: Sequence[float], b: Sequence[float], *, level: float = 0.95) -> Estimate:
    """The ratio of the geometric means of two groups that share no seeds, with Welch's interval of its logarithm.

    Raises:
        ValueError: values that are not positive, and all that `welch_difference` refuses.
    """
    refuse("interval over seeds", _not_positive(a, "a") + _not_positive(b, "b"))
    return _exponential(welch_difference(_logs(a), _logs(b), level=level))


@dataclass(frozen=True)
class LineFit(Result):
    """y ≈ intercept + slope·x by least squares.

    Args:
        r_squared: the share of the variance of y that the line accounts for; NaN where y does not vary.
        n: number of points. Points of one run are no independent measurements, so there is no interval here: fit each
            run, and take the interval of the slopes over seeds.
    """

    slope: float
    intercept: float
    r_squared: float
    n: int


def line_fit(x: Sequence[float], y: Sequence[float]) -> LineFit:
    """The least-squares line through points.

    Raises:
        ValueError: fewer than 3 points, unequal numbers, values that are not finite, or x all equal; all are told.
    """
    mistakes: list[str] = []
    if len(x) != len(y) or len(x) < 3:
        mistakes.append(f"x, y: expected at least 3 points, one y for each x, got {len(x)} and {len(y)} values")
    bad = [f"{name}[{i}] = {v}" for name, u in (("x", x), ("y", y)) for i, v in enumerate(u) if not math.isfinite(v)]
    if bad:
        mistakes.append(f"expected finite values, got {', '.join(bad)}; leave these points out")
    elif len(set(x)) == 1:
        mistakes.append(f"x: expected values that differ, all are {x[0]}; a line through them has no slope")
    refuse("line through points", mistakes)
    slope, intercept = statistics.linear_regression(x, y)
    mean = statistics.fmean(y)
    total = math.fsum((v - mean) ** 2 for v in y)
    rest = math.fsum((v - intercept - slope * u) ** 2 for u, v in zip(x, y, strict=True))
    return LineFit(slope, intercept, 1 - rest / total if total > 0 else math.nan, len(x))


def _logs(values: Sequence[float]) -> list[float]:
    return [math.log(value) for value in values]


def _exponential(log: Estimate) -> Estimate:
    """The estimate of a ratio from that of its logarithm."""
    ratio = math.exp(log.value)
    return Estimate(ratio, ratio * log.stderr, math.exp(log.low), math.exp(log.high), log.n, "", log.level, log.note)


def _not_positive(values: Sequence[float], name: str) -> list[str]:
    bad = [f"{name}[{i}] = {value}" for i, value in enumerate(values) if value <= 0]  # NaN is told of elsewhere
    return [f"{name}: expected positive values, got {', '.join(bad)}; a ratio has no logarithm there"] if bad else []


def _mistakes(values: Sequence[float], name: str, fewest: int) -> list[str]:
    mistakes: list[str] = []
    if len(values) < fewest:
        mistakes.append(f"{name}: expected at least {fewest} value(s), one per seed, got {len(values)}; run more seeds")
    bad = [f"{name}[{i}] = {value}" for i, value in enumerate(values) if not math.isfinite(value)]
    if bad:
        mistakes.append(
            f"{name}: expected finite values, got {', '.join(bad)}; report diverged runs apart, they have no mean"
        )
    return mistakes


def level_mistakes(level: float) -> list[str]:
    """What is wrong with a level, for `refuse`."""
    return [] if 0 < level < 1 else [f"level: expected a probability between 0 and 1, got {level}; usual is 0.95"]


def t_quantile(degrees_of_freedom: float, probability: float) -> float:
    """Of Student's t."""
    # Here and not on top: scipy takes longer to import than the command line to answer. scipy.stats takes longer still.
    from scipy.special import stdtrit  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    return float(stdtrit(degrees_of_freedom, probability))  # pyright: ignore[reportUnknownArgumentType]
