"""Claims over seeds: is there a difference, is it as good as, what share of a gap, and how many seeds would settle it.

Non-inferiority asks whether a − b is above −margin with the whole interval (the margin is the user's, stated beforehand); a
difference that is "not significant" shows nothing of the kind. A share of a gap is a ratio of two means that vary
together, with the interval of Fieller 1954: the ρ for which mean(part − ρ·whole) is not told from 0; where the whole gap is
not told from 0 that set has no end, and there is no share. Several primary questions are corrected by Holm 1979.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from largebatch.results._mistakes import refuse
from largebatch.results._result import Estimate, Result
from largebatch.results._stats import level_mistakes, paired_difference, t_quantile

__all__ = ["NonInferiority", "fieller_share", "holm", "non_inferiority", "paired_p_value", "seeds_to_settle"]

MOST_SEEDS = 10_000


@dataclass(frozen=True)
class NonInferiority(Result):
    """Whether a is at least as good as b up to a margin, where larger is better.

    Args:
        difference: a − b, paired.
        margin: how much worse still counts as as good, in the unit of the difference.
        p: one-sided, of a − b ≤ −margin; NaN where all differences are equal.
        holds: the whole two-sided interval lies above −margin.
    """

    difference: Estimate
    margin: float
    p: float
    holds: bool


def paired_p_value(a: Sequence[float], b: Sequence[float]) -> float:
    """Student's two-sided p of a − b having mean 0; NaN where all differences are equal, which tells nothing of spread.

    Raises:
        ValueError: as `paired_difference`.
    """
    found = paired_difference(a, b)
    return 2 * _upper_tail(abs(found.value), found.stderr, found.n)


def non_inferiority(
    a: Sequence[float], b: Sequence[float], *, margin: float, level: float = 0.95, unit: str = ""
) -> NonInferiority:
    """Is a as good as b, where larger values are better?

    Args:
        a, b: one value per seed, in the same order of seeds, in `unit`.
        margin: above 0, in `unit`.
        level: of the two-sided interval; the test is one-sided at (1 − level)/2.

    Raises:
        ValueError: a margin that is not above 0, and all that `paired_difference` refuses.
    """
    if not 0 < margin < math.inf:
        raise ValueError(
            f"margin: expected a number above 0, got {margin}; say beforehand how much worse would still do"
        )
    found = paired_difference(a, b, level=level, unit=unit)
    return NonInferiority(
        found,
        margin,
        _upper_tail(found.value + margin, found.stderr, found.n),
        found.stderr > 0 and found.low > -margin,
    )


def fieller_share(part: Sequence[float], whole: Sequence[float], *, level: float = 0.95) -> Estimate:
    """mean(part) ÷ mean(whole), for example of a gap closed, with Fieller's interval.

    Args:
        part, whole: one value per seed, in the same order of seeds; they may vary together.
        level: as for `mean_interval`.

    Returns:
        The share. Where the whole's own interval holds 0 value and interval are NaN, and `note` says "no gap".

    Raises:
        ValueError: as `paired_difference`.
    """
    paired_difference(part, whole, level=level)  # for what it refuses
    n, x, y = len(part), statistics.fmean(part), statistics.fmean(whole)
    square = t_quantile(n - 1, (1 + level) / 2) ** 2 / n
    xx, yy, xy = (statistics.covariance(u, v) * square for u, v in ((part, part), (whole, whole), (part, whole)))
    leading = y * y - yy
    if leading <= 0:
        return Estimate(math.nan, math.nan, math.nan, math.nan, n, "", level, "no gap: the whole is not told from 0")
    middle = (x * y - xy) / leading
    half = math.sqrt(max(0.0, middle**2 - (x * x - xx) / leading))
    share = x / y
    variance = (statistics.variance([u - share * v for u, v in zip(part, whole, strict=True)])) / n / y**2
    return Estimate(share, math.sqrt(variance), middle - half, middle + half, n, "", level)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: compare the result with the level itself. NaN stays, and counts as a question asked.

    Raises:
        ValueError: a p-value outside [0, 1].
    """
    bad = [f"p_values[{i}] = {p}" for i, p in enumerate(p_values) if not math.isnan(p) and not 0 <= p <= 1]
    refuse("Holm", [f"expected probabilities from 0 to 1, got {', '.join(bad)}; give p-values"] if bad else [])
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[i] = largest
    return adjusted


def seeds_to_settle(
    differences: Sequence[float], *, threshold: float = 0.0, level: float = 0.95, power: float = 0.8
) -> int | None:
    """The fewest seeds whose interval would exclude `threshold`, if mean and spread are what they seem so far.

    Args:
        differences: observed so far, one per seed.
        threshold: 0, or −margin.
        level: of the two-sided interval.
        power: with what probability.

    Returns:
        At least 3; None where more than 10,000 would be needed, or the differences do not vary.

    Raises:
        ValueError: fewer than 3 differences, a level or power outside (0, 1); all are told.
    """
    from scipy.special import nctdtr  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    mistakes = level_mistakes(level) + [text.replace("level", "power", 1) for text in level_mistakes(power)]
    if len(differences) < 3:
        mistakes.append(f"differences: expected at least 3, one per seed, got {len(differences)}; run more seeds")
    refuse("interval over seeds", mistakes)
    spread = statistics.stdev(differences)
    effect = abs(statistics.fmean(differences) - threshold)
    if spread == 0 or effect == 0:
        return None

    def is_enough(n: int) -> bool:
        needed = t_quantile(n - 1, (1 + level) / 2)
        missed = float(nctdtr(n - 1, effect / spread * math.sqrt(n), needed))  # pyright: ignore[reportUnknownArgumentType]
        return missed <= 1 - power or math.isnan(missed)  # far in the tail scipy gives up, and nothing is missed

    high = 3
    while not is_enough(high):
        if high >= MOST_SEEDS:
            return None
        high = min(2 * high, MOST_SEEDS)
    low = max(3, high // 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return high


def _upper_tail(value: float, stderr: float, n: int) -> float:
    """Probability of a larger value of Student's t than value/stderr."""
    from scipy.special import stdtr  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    if stderr == 0:
        return math.nan
    return float(stdtr(n - 1, -value / stderr))  # pyright: ignore[reportUnknownArgumentType]
