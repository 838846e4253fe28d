"""Time, worker-hours and money on W workers: samples-to-target(B) ÷ B × seconds of an update(W).

Where to stop: doubling the workers saves at most half the time. It is worth it as long as it saves `min_saving` of it,
25 % by default: half of what an ideal doubling saves, at which worker-hours grow by 1.5. `stop_at` is the largest number of
workers asked about that still saves so much over half as many. The rule is ours; a price on time would give another.

Uncertainty: the interval of a row is that of one run (curve, scatter of batches, seeds) and of the step time, taken as
independent: their distances on the log scale add in squares. `stop_at_low` and
`stop_at_high` follow from the ends of B_crit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from largebatch.plan._arrays import Booleans, Floats, Integers
from largebatch.plan._plan import Plan
from largebatch.plan._time import StepTime
from largebatch.results import from_zero, positive, refuse, student_quantile
from largebatch.target import SamplesToTarget, samples_to_target

__all__ = ["estimate"]

_CURVE_POINTS = 200  # the curve is smooth: between so many batches it is interpolated, log against log


def estimate(
    samples: SamplesToTarget,
    step: StepTime,
    workers: Sequence[int],
    *,
    local_batch_size: int | None = None,
    global_batch_size: int | None = None,
    price_per_worker_hour: float | None = None,
    budget: float | None = None,
    min_saving: float = 0.25,
    notes: Sequence[str] = (),
) -> Plan:
    """What a target costs on each number of workers.

    Args:
        samples: how many samples the target takes at each batch: a `HyperbolaFit`, or a `Hyperbola` of known numbers.
        step: how long an update takes.
        workers: the numbers to plan for, such as `doublings(1, 4096)` or `range(1, 1_000_001)`; each 1 or more.
        local_batch_size: samples of each worker, so that the batch grows with the workers; or
        global_batch_size: samples of all together, so that each worker's share shrinks. Exactly one of the two.
        price_per_worker_hour: in any currency, which `budget` and the prices are then in.
        budget: `stop_at` goes no further than this buys.
        min_saving: the least share of the time a doubling must save, between 0 and 0.5.
        notes: what was assumed, to stand under the table.

    Returns:
        The plan.

    Raises:
        ValueError: with every mistake: workers below 1, a curve that has no interval or does not fit, a budget without a
            price.
    """
    asked = np.asarray(workers, np.int64)
    _refuse_bad_request(
        samples=samples,
        workers=asked,
        local=local_batch_size,
        fixed=global_batch_size,
        price=price_per_worker_hour,
        budget=budget,
        min_saving=min_saving,
    )
    w = asked if (np.diff(asked) > 0).all() else np.unique(asked)
    question = _Question(samples, step, local_batch_size, global_batch_size)
    b, seconds, needed = (
        question.batch(w),
        question.step_seconds(w),
        question.needed(w),
    )
    hours = needed / b * seconds / 3600
    low, high = _interval(samples, step, b, hours)
    prices = None if price_per_worker_hour is None else w * hours * price_per_worker_hour
    allowed = w[np.ones(len(w), bool) if prices is None or budget is None else prices <= budget]
    columns: dict[str, Any] = {
        "workers": w,
        "global_batch_size": b,
        "step_seconds": seconds,
        "efficiency": step.seconds(1, b / w) / seconds,
        "samples_to_target": needed,
        "hours": hours,
        "hours_low": low,
        "hours_high": high,
        "worker_hours": w * hours,
        "price": np.full(len(w), None) if prices is None else prices,
        "doubling_saves": question.doubling_saves(w),
        "best": _front(hours, w * hours),
    }
    stop_at, stop_low, stop_high = question.stops(allowed if len(allowed) else w[:1], min_saving)
    rule = f"the most workers that still take {100 * min_saving:g} % less time than half as many, or better"
    if budget is not None:
        rule += f", within {budget:g}" if len(allowed) else f"; even that costs more than {budget:g}"
    return Plan(columns, stop_at, stop_low, stop_high, rule, tuple(notes))


@dataclass(frozen=True)
class _Question:
    """Updates and seconds as functions of the workers, for a fixed local or global batch."""

    samples: SamplesToTarget
    step: StepTime
    local: int | None
    fixed: int | None

    def batch(self, w: Integers) -> Integers:
        return w * self.local if self.local is not None else np.full_like(w, self.fixed or 0)

    def step_seconds(self, w: Integers) -> Floats:
        return self.step.seconds(w, self.batch(w) / w)

    def needed(self, w: Integers) -> Floats:
        """Samples to the target."""
        curve = self.samples
        units = samples_to_target(self.batch(w), curve.fewest_samples.value, curve.critical_batch_size.value)
        return units * curve.samples_per_unit

    def doubling_saves(self, w: Integers) -> Floats:
        """The share of the hours that twice the workers save."""
        speed = self.step_seconds(2 * w) / self.step_seconds(w)
        return 1 - speed * self._update_ratio(w, 2 * w, self.samples.critical_batch_size.value)

    def stops(self, w: Integers, min_saving: float) -> tuple[int, int, int]:
        """The last of w whose doubling from half as many still saved enough: at B_crit, at its low and at its high end."""
        half = -(-w // 2)
        speed = self.step_seconds(w) / self.step_seconds(half)
        critical = self.samples.critical_batch_size
        ends: list[int] = []
        for value in (critical.value, critical.low, critical.high):
            worth = 1 - speed * self._update_ratio(half, w, value) >= min_saving
            ends.append(int(w[worth].max(initial=int(w[0]))))
        return ends[0], ends[1], ends[2]

    def _update_ratio(self, before: Integers, after: Integers, critical: float) -> Floats:
        """S(B) ∝ 1/B + 1/B_crit, after ÷ before."""
        if critical == 0:
            return np.ones(len(after))
        return (1 / self.batch(after) + 1 / critical) / (1 / self.batch(before) + 1 / critical)


def _interval(samples: SamplesToTarget, step: StepTime, b: Integers, hours: Floats) -> tuple[Floats, Floats]:
    """Hours, low and high, of one run."""
    points: Floats = np.geomspace(float(b.min()), float(b.max()), min(len(b), _CURVE_POINTS))
    value, low, high = samples.interval(points)
    of_step = student_quantile(math.inf, 0.95) * step.relative_error
    down, up = (np.interp(np.log(b), np.log(points), np.abs(np.log(end / value))) for end in (low, high))
    return hours * np.exp(-np.hypot(down, of_step)), hours * np.exp(np.hypot(up, of_step))


def _front(hours: Floats, worker_hours: Floats) -> Booleans:
    """Which points no other point beats: in the order of hours, each must need fewer worker-hours than all before."""
    order = np.lexsort((worker_hours, hours))
    least = np.minimum.accumulate(worker_hours[order])
    on = np.ones(len(order), bool)
    on[1:] = worker_hours[order][1:] < least[:-1]
    front = np.empty(len(order), bool)
    front[order] = on
    return front


def _refuse_bad_request(
    *,
    samples: SamplesToTarget,
    workers: Integers,
    local: int | None,
    fixed: int | None,
    price: float | None,
    budget: float | None,
    min_saving: float,
) -> None:
    mistakes = _curve_mistakes(samples)
    fewest = int(workers.min()) if len(workers) else 0
    if fewest < 1:
        got = "none" if not len(workers) else str(fewest)
        mistakes.append(f"workers: expected numbers of 1 or more, got {got}; give for example doublings(1, 4096)")
    if (local is None) == (fixed is None):
        got = "neither" if local is None else "both"
        mistakes.append(
            f"local_batch_size: expected this or global_batch_size, got {got}; give the samples of one worker, or of all"
        )
    for name, value in (("local_batch_size", local), ("global_batch_size", fixed)):
        if value is not None and value < 1:
            mistakes.append(f"{name}: expected 1 sample or more, got {value}; give the batch")
    if fixed is not None and fewest >= 1 and fixed < workers.max():
        mistakes.append(
            f"global_batch_size: expected a sample or more for each of {workers.max()} workers, got {fixed}; "
            "give fewer workers or a larger batch"
        )
    if price is not None:
        mistakes += from_zero("price_per_worker_hour", price, "a price", "leave it out where money does not matter")
    if budget is not None:
        mistakes += positive("budget", budget, "an amount of money", "leave it out where money does not matter")
        if price is None:
            mistakes.append(
                f"price_per_worker_hour: expected a price, since there is a budget of {budget:g}, got none; "
                "give what one worker costs an hour"
            )
    if not 0 < min_saving < 0.5:
        mistakes.append(
            f"min_saving: expected a share between 0 and 0.5, got {min_saving}; an ideal doubling saves 0.5"
        )
    refuse("plan", mistakes)


def _curve_mistakes(samples: SamplesToTarget) -> list[str]:
    critical = samples.critical_batch_size
    if math.isnan(critical.low) or math.isnan(critical.high):
        return [
            f"critical_batch_size: expected a value with its interval, got {critical.value:.6g} without one; "
            "fit it to three batches or more, or give Hyperbola.known(…, (value, low, high))"
        ]
    if samples.reservation:
        return [
            f"samples: expected a curve that fits, got one that does not: {samples.reservation}; leave those batches out"
        ]
    return []
