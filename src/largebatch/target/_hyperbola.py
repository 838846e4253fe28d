"""Samples and updates to a target as functions of the batch.

McCandlish et al. 2018 (arXiv 1812.06162): (S/S_min − 1)·(E/E_min − 1) = 1, for S updates and E = S·B samples. Solved for
the batch B, with B_crit = E_min/S_min:

    E(B) = E_min·(1 + B/B_crit)        S(B) = S_min·(1 + B_crit/B)

Letters: E_min is `fewest_samples`, S_min `fewest_updates`, B_crit `critical_batch_size`. At B_crit both are twice
their minimum.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import ArrayLike

from largebatch.results import Estimate, Result, positive, refuse
from largebatch.target._arrays import Floats

__all__ = ["Hyperbola", "SamplesToTarget", "samples_to_target", "updates_to_target"]


def samples_to_target(batch_size: ArrayLike, fewest_samples: float, critical_batch_size: float) -> Floats:
    """E(B), in the unit of `fewest_samples`; shaped like `batch_size`."""
    return fewest_samples * (1 + np.asarray(batch_size, np.float64) / critical_batch_size)


def updates_to_target(batch_size: ArrayLike, fewest_samples: float, critical_batch_size: float) -> Floats:
    """S(B) = E(B)/B; shaped like `batch_size`."""
    return samples_to_target(batch_size, fewest_samples, critical_batch_size) / np.asarray(batch_size, np.float64)


class SamplesToTarget(Result, ABC):
    """How many samples a target costs at each batch, with the uncertainty. A plan asks no more of a curve."""

    fewest_samples: Estimate
    critical_batch_size: Estimate
    samples_per_unit: float

    @property
    def reservation(self) -> str:
        """Why the curve may not be planned with; "" where it may."""
        return ""

    @abstractmethod
    def interval(self, batch_size: Floats) -> tuple[Floats, Floats, Floats]:
        """Samples to the target of one run: median, low, high, each (n,), in samples whatever the unit of the fit.

        Args:
            batch_size: (n,), global.
        """


@final
@dataclass(frozen=True)
class Hyperbola(SamplesToTarget):
    """The curve from known numbers; `Hyperbola.known` takes them as bare numbers.

    Args:
        fewest_samples: E_min in `unit`, with its interval.
        critical_batch_size: B_crit in samples, with its interval; infinite where the same samples do at every batch.
        unit: "samples" or "epochs".
        samples_per_unit: 1, or the samples of an epoch.

    Raises:
        ValueError: with every mistake; B_crit without an interval is one, for it decides where to stop.
    """

    fewest_samples: Estimate
    critical_batch_size: Estimate
    unit: str = "samples"
    samples_per_unit: float = 1.0

    def __post_init__(self) -> None:
        epoch = "1, or the samples of the training set where the unit is epochs"
        mistakes = _interval_mistakes("fewest_samples", self.fewest_samples)
        mistakes += _interval_mistakes("critical_batch_size", self.critical_batch_size)
        mistakes += positive("samples_per_unit", self.samples_per_unit, "the samples of one unit", f"give {epoch}")
        refuse("samples to target", mistakes)

    @classmethod
    def known(
        cls,
        fewest_samples: Sequence[float] | float,
        critical_batch_size: Sequence[float] | float,
        *,
        unit: str = "samples",
        samples_per_unit: float = 1.0,
    ) -> "Hyperbola":
        """The curve from `(value, low, high)` each.

        Args:
            fewest_samples: a bare number is exact: a budget that was decided, not measured.
            critical_batch_size: `math.inf` alone is a fixed budget, the same samples at every batch.
            unit, samples_per_unit: as for the class.

        Raises:
            ValueError: as for the class.
        """
        least = (fewest_samples,) * 3 if isinstance(fewest_samples, int | float) else fewest_samples
        fixed = critical_batch_size == math.inf
        critical = (math.inf,) * 3 if fixed else critical_batch_size
        return cls(_estimate(least, unit), _estimate(critical, "samples"), unit, samples_per_unit)

    def interval(self, batch_size: Floats) -> tuple[Floats, Floats, Floats]:
        """Median, low, high. The two intervals are taken as independent: distances on the log scale add in squares."""
        least, critical = self.fewest_samples, self.critical_batch_size
        log_value = np.log(samples_to_target(batch_size, least.value, critical.value))
        ends: list[Floats] = []
        for samples, batch, sign in ((least.low, critical.high, -1), (least.high, critical.low, 1)):
            by_samples = math.log(samples / least.value)
            by_batch = np.log(samples_to_target(batch_size, least.value, batch)) - log_value
            ends.append(log_value + sign * np.hypot(by_samples, by_batch))
        value, low, high = (np.exp(log) * self.samples_per_unit for log in (log_value, *ends))
        return value, low, high


def _estimate(given: Sequence[float] | float, unit: str) -> Estimate:
    """NaN for what is not given, which is refused later."""
    numbers = [given] if isinstance(given, int | float) else list(given)
    value, low, high = numbers if len(numbers) == 3 else (numbers[0] if numbers else math.nan, math.nan, math.nan)
    return Estimate(float(value), math.nan, float(low), float(high), 0, unit)


def _interval_mistakes(name: str, given: Estimate) -> list[str]:
    wanted = f"{name}: expected a value with its interval, (value, low, high)"
    if math.isnan(given.low) or math.isnan(given.high):
        return [f"{wanted}, got {given.value:.6g} alone; give low and high, or a fit to three batches or more"]
    if not 0 < given.low <= given.value <= given.high:
        got = f"({given.value:.6g}, {given.low:.6g}, {given.high:.6g})"
        return [f"{wanted}, 0 < low ≤ value ≤ high, got {got}; put them into this order"]
    return []
