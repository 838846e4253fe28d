"""The time of one update on W workers.

Compute, W workers of n samples each: T_grad = a_c + b_c·n (AdaptDL; Qiao et al. 2021, arXiv 2008.12260, section 3). All wait
for the slowest, so T_grad is the expected maximum over the workers:

    Normal(T, (s·T)²) each:      T·(1 + s·E[max of W standard Normals])
    exponential delay, mean d:   T + d·(H_W − 1)        H_W = 1 + 1/2 + … + 1/W; one worker's own d is in T already

Communication, T_net of `_network`, hides behind the backward pass in one of two ways:

    by the exponent γ (AdaptDL):   T = (T_grad^γ + T_net^γ)^(1/γ)        γ = 1: nothing hides; γ → ∞: the shorter does, whole
    by a share h of the compute:   T = T_grad + max(0, T_net − h·T_grad)        our model; the backward pass is about 2/3

To either comes, where several workers join, a time that neither part has when it is measured by itself: copies into
buckets, threads of the all-reduce that share the cores. It is ours; neither source has it.

Letters: a_c is `fixed_seconds`, b_c `seconds_per_sample`, γ `overlap_exponent`, h `overlap_share`, s `jitter`, d
`delay_seconds`.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import final

import numpy as np
from numpy.typing import ArrayLike

from largebatch.plan._arrays import Floats
from largebatch.plan._distributions import harmonic_number, normal_quantile
from largebatch.plan._network import Network
from largebatch.results import Result, from_zero, positive, refuse

__all__ = ["StepTime", "expected_maximum"]


@final
@dataclass(frozen=True)
class StepTime(Result):
    """How long an update takes; all times in seconds.

    Args:
        seconds_per_sample: b_c, of forward, backward and optimiser on one worker.
        fixed_seconds: a_c, of every update whatever its batch.
        network, gradient_bytes: how many bytes go through which network; None: gradients are shared in no time.
        overlap_exponent: γ, 1 to 10.
        overlap_share: h, 0 to 1, in place of γ; None leaves it to γ.
        joining_seconds: of an update of two workers or more, beyond compute and all-reduce.
        jitter: s, standard deviation of a worker's compute as a share of it.
        delay_seconds: d, mean of an exponential delay of each worker, in place of jitter.
        relative_error: standard error of a predicted time as a share of it, from the fit that gave these numbers.

    Raises:
        ValueError: with every number that is out of range.
    """

    seconds_per_sample: float
    fixed_seconds: float = 0.0
    network: Network | None = None
    gradient_bytes: float = 0.0
    overlap_exponent: float = 1.0
    overlap_share: float | None = None
    joining_seconds: float = 0.0
    jitter: float = 0.0
    delay_seconds: float = 0.0
    relative_error: float = 0.0

    def __post_init__(self) -> None:
        mistakes = positive("seconds_per_sample", self.seconds_per_sample, "a time", "measure it on one worker")
        mistakes += from_zero("fixed_seconds", self.fixed_seconds, "a time", "0 is none")
        mistakes += from_zero("joining_seconds", self.joining_seconds, "a time", "0 is none")
        mistakes += from_zero("jitter", self.jitter, "a share", "0 is none")
        mistakes += from_zero("delay_seconds", self.delay_seconds, "a time", "0 is none")
        mistakes += from_zero("relative_error", self.relative_error, "a share", "0 is a time known exactly")
        if self.network is not None:
            bytes_ = "4 for every parameter in float32"
            mistakes += positive("gradient_bytes", self.gradient_bytes, "the bytes that are all-reduced", bytes_)
        if not 1 <= self.overlap_exponent <= 10:
            mistakes.append(f"overlap_exponent: expected 1 (nothing hides) to 10, got {self.overlap_exponent}; fit it")
        if self.overlap_share is not None and not 0 <= self.overlap_share <= 1:
            mistakes.append(
                f"overlap_share: expected a share from 0 to 1, got {self.overlap_share}; backward is about 2/3"
            )
        if self.overlap_share is not None and self.overlap_exponent != 1:
            mistakes.append("overlap_share: expected this or overlap_exponent, got both; give one")
        if self.jitter and self.delay_seconds:
            mistakes.append("jitter: expected this or delay_seconds, got both; give one")
        refuse("step time", mistakes)

    def compute_seconds(self, workers: ArrayLike, local_batch_size: ArrayLike) -> Floats:
        """T_grad: until the slowest of the workers is done; broadcast."""
        w, n = np.asarray(workers, np.float64), np.asarray(local_batch_size, np.float64)
        mean = self.fixed_seconds + self.seconds_per_sample * n
        if self.delay_seconds:
            return mean + self.delay_seconds * (harmonic_number(w) - 1)
        return mean * (1 + self.jitter * expected_maximum(w)) if self.jitter else mean + np.zeros_like(w)

    def network_seconds(self, workers: ArrayLike) -> Floats:
        """T_net: of one all-reduce of the gradients, shaped like `workers`."""
        w = np.asarray(workers, np.float64)
        return np.zeros_like(w) if self.network is None else self.network.seconds(w, self.gradient_bytes)

    def seconds(self, workers: ArrayLike, local_batch_size: ArrayLike) -> Floats:
        """T: of one update; broadcast."""
        compute, network = self.compute_seconds(workers, local_batch_size), self.network_seconds(workers)
        joining = self.joining_seconds * (np.asarray(workers, np.float64) > 1)
        if self.overlap_share is not None:
            return compute + np.maximum(0.0, network - self.overlap_share * compute) + joining
        if self.overlap_exponent == 1:
            return compute + network + joining
        longer, shorter = np.maximum(compute, network), np.minimum(compute, network)
        return longer * (1 + (shorter / longer) ** self.overlap_exponent) ** (1 / self.overlap_exponent) + joining

    def efficiency(self, workers: ArrayLike, local_batch_size: ArrayLike) -> Floats:
        """Samples a second and worker, as a share of those of one worker alone with the same samples."""
        return self.seconds(1, local_batch_size) / self.seconds(workers, local_batch_size)


def expected_maximum(n: ArrayLike) -> Floats:
    """E[max of n standard Normals], shaped like `n`: ∫ Φ⁻¹(u^(1/n)) du at 400 points of ln n, interpolated between."""
    log_n = np.log(np.asarray(n, np.float64))
    points = np.linspace(0.0, max(float(log_n.max(initial=0.0)), 1.0), 400)
    return np.interp(log_n, points, _maxima(tuple(points)))


@cache
def _maxima(log_n: tuple[float, ...]) -> Floats:
    """E[max of n], by the substitution u = v² (3 − 2v), which tames both ends of the integrand."""
    v, weights = np.polynomial.legendre.leggauss(400)
    v, weights = (v + 1) / 2, weights / 2
    log_u, slope = np.log(v**2 * (3 - 2 * v)), 6 * v * (1 - v)
    # Φ⁻¹(e^−x) for x near 0 is −Φ⁻¹(1 − e^−x): the upper tail needs its own small probability.
    x = -log_u / np.exp(np.array(log_n))[:, None]
    quantile = np.where(x < math.log(2), -normal_quantile(-np.expm1(-x)), normal_quantile(np.exp(-x)))
    return quantile @ (weights * slope)
