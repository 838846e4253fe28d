"""What was measured of the noise: B_simple with an interval, or the statement that there is not enough data yet.

tr(Σ) and |G|² are unbiased look by look, so their means may be negative, and are reported so. Their ratio is that of the
means over all blocks, with Fieller's interval (`results.fieller_share`), which knows that both come from the same looks.
Where |G|² is not told from 0 the interval is unbounded: then there is no number.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from largebatch.results import Estimate, Result, fieller_share, mean_interval, student_quantile

__all__ = ["NoiseEstimate", "estimate_noise"]

_FEWEST = 8  # blocks: with fewer, an interval depends on how their few means are distributed


@final
@dataclass(frozen=True)
class NoiseEstimate(Result):
    """The gradient noise over a stretch of training.

    Args:
        noise_scale: B_simple = tr(Σ)/|G|², in samples; NaN, with the reason as `note`, where there is not enough data.
        noise_trace, gradient_squared_norm: tr(Σ) and |G|².
        looks: updates looked at.
        first_samples, last_samples: of the run, between which they lie.
        preconditioned: measured as Adam sees gradients, each entry divided by √(√v̂ + ε).
    """

    noise_scale: Estimate
    noise_trace: Estimate
    gradient_squared_norm: Estimate
    looks: int
    first_samples: float = 0.0
    last_samples: float = 0.0
    preconditioned: bool = False

    def at(self, first_samples: float, last_samples: float, *, preconditioned: bool) -> "NoiseEstimate":
        """The same, with the stretch of the run it is of."""
        return replace(self, first_samples=first_samples, last_samples=last_samples, preconditioned=preconditioned)

    @property
    def is_known(self) -> bool:
        """Whether there was enough data for a number."""
        return not math.isnan(self.noise_scale.value)


def estimate_noise(traces: Sequence[float], signals: Sequence[float], *, looks: int) -> NoiseEstimate:
    """The estimate from block means.

    Args:
        traces, signals: tr(Σ) and |G|² of each block.
        looks: how many looks these are means of.
    """
    n = len(traces)
    if n < 2:
        known = [statistics.fmean(values) if values else math.nan for values in (traces, signals)]
        trace, signal = (Estimate(x, math.nan, math.nan, math.nan, looks) for x in known)
    else:
        trace, signal = mean_interval(traces), mean_interval(signals)
    if n < _FEWEST:
        note = f"not enough data yet: {looks} looks of at least {_FEWEST}; look more often, or train on"
        return NoiseEstimate(_unknown(looks, note), trace, signal, looks)
    ratio = fieller_share(traces, signals)
    if math.isnan(ratio.value) or signal.value <= 0:
        return NoiseEstimate(_unknown(looks, _shortage(signal, looks)), trace, signal, looks)
    return NoiseEstimate(replace(ratio, n=n, unit="samples", note=""), trace, signal, looks)


def _unknown(looks: int, note: str) -> Estimate:
    return Estimate(math.nan, math.nan, math.nan, math.nan, looks, "samples", note=note)


def _shortage(signal: Estimate, looks: int) -> str:
    """How many looks would tell |G|² from 0, as errors fall with their root."""
    told = (
        f"not enough data yet: |G|² = {signal.value:.3g} ± {signal.stderr:.3g} is not told from 0 after {looks} looks"
    )
    if signal.value <= 0:
        return f"{told}; compare larger batches, for example by accumulation"
    needed = looks * (student_quantile(signal.n - 1, signal.level) * signal.stderr / signal.value) ** 2
    return f"{told}; about {math.ceil(needed)} would do, or larger batches"
