"""The numbers of a step-time model from measured times: least squares on their logarithms, each number from 0 on.

Times scatter by a share of themselves and span orders of magnitude, so ln(predicted) − ln(measured) is what is squared.
Intervals are Student's t with the covariance s²·(JᵀJ)⁻¹ at the minimum (Bates and Watts 1988, chapter 2), cut at
0; as many times as numbers leave none. The residual s is the standard error of a predicted time, as a share of it.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import numpy as np

from largebatch.plan._arrays import Floats
from largebatch.plan._distributions import least_squares
from largebatch.plan._network import all_reduce_counts
from largebatch.results import Estimate, Result, refuse, student_quantile

__all__ = ["ComputeFit", "NetworkFit", "OverlapFit", "fit_compute", "fit_network", "fit_overlap", "seconds_per_update"]

_LEVEL = 0.95


@final
@dataclass(frozen=True)
class ComputeFit(Result):
    """T_grad = a_c + b_c·n, and by which share a measured time is off it."""

    fixed_seconds: Estimate
    seconds_per_sample: Estimate
    residual: float


@final
@dataclass(frozen=True)
class NetworkFit(Result):
    """a and b of a link, for one all-reduce algorithm, and by which share a measured time is off them.

    Adding is part of b here: every algorithm adds in proportion to what it sends, or nearly.
    """

    latency_seconds: Estimate
    seconds_per_byte: Estimate
    residual: float


@final
@dataclass(frozen=True)
class OverlapFit(Result):
    """γ of AdaptDL, within 1 and 10, or what an update takes beyond its parts, and by which share a measured step is off."""

    exponent: Estimate
    joining_seconds: Estimate
    residual: float


def fit_compute(local_batch_sizes: Sequence[float], seconds: Sequence[float]) -> ComputeFit:
    """What a step of one worker takes, from its time at two batch sizes or more.

    Args:
        local_batch_sizes, seconds: one each per measurement.

    Raises:
        ValueError: unequal numbers, fewer than two batch sizes, times that are not above 0; all mistakes are told.
    """
    mistakes = _timing_mistakes(local_batch_sizes, seconds, "local_batch_sizes")
    mistakes += _variety_mistakes(local_batch_sizes, "local_batch_sizes", "sizes")
    refuse("fit of the compute time", mistakes)
    design = np.stack([np.ones(len(seconds)), np.array(local_batch_sizes, np.float64)], axis=1)
    (fixed, per_sample), residual = _fit_linear(design, np.array(seconds, np.float64), ("s", "s"))
    return ComputeFit(fixed, per_sample, residual)


def fit_network(
    workers: Sequence[int], n_bytes: Sequence[float], seconds: Sequence[float], *, algorithm: str = "ring"
) -> NetworkFit:
    """Latency and bandwidth, from all-reduce times at two sizes or more.

    Args:
        workers, n_bytes, seconds: one each per measurement; 2 workers or more.
        algorithm: one of `ALGORITHMS`, which the measured library is taken to use.

    Raises:
        ValueError: as for `fit_compute`, for one worker, or for an unknown algorithm.
    """
    mistakes = _timing_mistakes(n_bytes, seconds, "n_bytes") + _variety_mistakes(n_bytes, "n_bytes", "sizes")
    if len(workers) != len(seconds):
        mistakes.append(f"workers: expected one for each of {len(seconds)} times, got {len(workers)}; give W of each")
    if min(workers, default=2) < 2:
        mistakes.append(f"workers: expected 2 or more, got {min(workers)}; one worker sends nothing")
    refuse("fit of the network", mistakes)
    messages, sent, _ = all_reduce_counts(workers, algorithm)
    design = np.stack([messages, sent * np.array(n_bytes, np.float64)], axis=1)
    (latency, per_byte), residual = _fit_linear(design, np.array(seconds, np.float64), ("s", "s/B"))
    return NetworkFit(latency, per_byte, residual)


def fit_overlap(
    compute_seconds: Sequence[float], network_seconds: Sequence[float], step_seconds: Sequence[float]
) -> OverlapFit:
    """How much of the communication hides behind the compute, from steps of which both parts are known.

    Steps longer than the sum of their parts leave a time that joining takes. How much hides is not fitted then, since at
    one network time it cannot be told from that: nothing is taken to hide, which is cautious for slower networks than the
    measured one, and not for faster ones.

    Args:
        compute_seconds, network_seconds, step_seconds: one each per measurement.

    Raises:
        ValueError: unequal numbers, times that are not above 0; all mistakes are told.
    """
    mistakes = _timing_mistakes(compute_seconds, step_seconds, "compute_seconds")
    mistakes += _timing_mistakes(network_seconds, step_seconds, "network_seconds", told=bool(mistakes))
    refuse("fit of the overlap", mistakes)
    compute, network, step = (np.array(x, np.float64) for x in (compute_seconds, network_seconds, step_seconds))
    parts = compute + network

    def longer(numbers: Floats) -> Floats:
        return np.log(parts + numbers[0])

    if float(np.sum(np.log(step / parts) / parts)) > 0:  # the fit gets better as joining leaves 0
        (joining,), residual = _fit(longer, np.array([0.1 * network.min()]), np.log(step), (0.0, np.inf), ("s",))
        nothing_hides = Estimate(1.0, math.nan, math.nan, math.nan, len(step), note="steps are longer than their parts")
        return OverlapFit(nothing_hides, joining, residual)
    most, ratio = np.maximum(compute, network), np.minimum(compute, network) / np.maximum(compute, network)

    def shorter(numbers: Floats) -> Floats:
        return np.log(most) + np.log1p(ratio ** numbers[0]) / numbers[0]

    (exponent,), residual = _fit(shorter, np.array([2.0]), np.log(step), (1.0, 10.0), ("",))
    return OverlapFit(
        exponent, Estimate(0.0, math.nan, math.nan, math.nan, len(step), "s", note="a part hides"), residual
    )


def seconds_per_update(log: Sequence[Mapping[str, Any]]) -> Estimate:
    """The time of an update from the rows of a run's log: over its epochs after the first, which starts things up.

    Args:
        log: rows with "seconds" (since the start) and "updates", such as the "epoch" rows of a run folder.

    Raises:
        ValueError: fewer than two such rows.
    """
    marks = [(float(row["seconds"]), float(row["updates"])) for row in log if "seconds" in row and "updates" in row]
    if len(marks) < 2:
        raise ValueError(
            f'log: expected two rows or more with "seconds" and "updates", got {len(marks)} among {len(log)}; '
            "give a run of two epochs or more, or the step time itself"
        )
    spans = [(t - s) / (v - u) for (s, u), (t, v) in pairwise(marks) if v > u]
    if not spans or min(spans) <= 0:
        raise ValueError(
            "log: expected seconds and updates that grow row by row, got some that do not; give one run's log"
        )
    middle = statistics.median(spans)
    if len(spans) == 1:
        return Estimate(middle, math.nan, math.nan, math.nan, 1, "s", note="one epoch has no interval")
    stderr = statistics.stdev(spans) / math.sqrt(len(spans))
    half = student_quantile(len(spans) - 1, _LEVEL) * stderr
    return Estimate(middle, stderr, middle - half, middle + half, len(spans), "s")


def _fit_linear(design: Floats, seconds: Floats, units: tuple[str, ...]) -> tuple[list[Estimate], float]:
    """Times that are sums of numbers from 0 on: `design` (n, k) times (k,)."""
    scale = np.median(seconds) / np.median(design, axis=0)  # each term alone would explain the median time

    def log_seconds(numbers: Floats) -> Floats:
        return np.log(design @ (numbers * scale) + 1e-300)

    estimates, residual = _fit(log_seconds, np.full(len(scale), 0.5), np.log(seconds), (0.0, np.inf), units)
    parts = zip(estimates, scale.tolist(), strict=True)
    scaled = [
        Estimate(e.value * f, e.stderr * f, e.low * f, e.high * f, e.n, e.unit, e.level, e.note) for e, f in parts
    ]
    return scaled, residual


def _fit(
    log_seconds: Callable[[Floats], Floats],
    start: Floats,
    measured: Floats,
    bounds: tuple[float, float],
    units: tuple[str, ...],
) -> tuple[list[Estimate], float]:
    """Numbers within bounds that make `log_seconds` closest to the measured logarithms, and the residual per time."""
    numbers, jacobian = least_squares(lambda x: log_seconds(x) - measured, start, bounds)
    freedom = len(measured) - len(numbers)
    if freedom < 1:
        note = "as many times as numbers leave no interval; measure more"
        pairs = zip(numbers.tolist(), units, strict=True)
        return [
            Estimate(x, math.nan, math.nan, math.nan, len(measured), unit, note=note) for x, unit in pairs
        ], math.nan
    error = log_seconds(numbers) - measured
    residual = math.sqrt(float(error @ error) / freedom)
    stderrs = residual * np.sqrt(np.diag(np.linalg.pinv(jacobian.T @ jacobian)))
    half = student_quantile(freedom, _LEVEL) * stderrs
    estimates = [
        Estimate(float(x), float(s), max(float(x - h), bounds[0]), min(float(x + h), bounds[1]), len(measured), unit)
        for x, s, h, unit in zip(numbers, stderrs, half, units, strict=True)
    ]
    return estimates, residual


def _timing_mistakes(values: Sequence[float], seconds: Sequence[float], name: str, *, told: bool = False) -> list[str]:
    mistakes: list[str] = []
    if len(values) != len(seconds):
        mistakes.append(f"{name}: expected one for each of {len(seconds)} times, got {len(values)}; pair them")
    for label, numbers in ((name, values), ("seconds", () if told else seconds)):
        bad = [str(x) for x in numbers if not (x > 0 and math.isfinite(x))]
        if bad:
            mistakes.append(f"{label}: expected numbers above 0 and finite, got {', '.join(bad)}; measure those again")
    if not told and not len(seconds):
        mistakes.append("seconds: expected measured times, got none; measure some")
    return mistakes


def _variety_mistakes(values: Sequence[float], name: str, what: str) -> list[str]:
    if len(set(values)) > 1:
        return []
    return [f"{name}: expected two different {what} or more, got {len(set(values))}; measure another"]
