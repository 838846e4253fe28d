"""Culprits of the learning rate: schedulers that step too often, momentum corrected where it must not be, staircases.

Goyal et al. 2017 (arXiv 1706.02677): gradual warmup adds a constant amount at every *iteration* (section 2.2); momentum
correction belongs to v ← m·v + η·g and not to torch.optim.SGD's u ← m·u + g; w ← w − η·u (section 2.5, remark 2).
"""

import math
from collections import Counter

from largebatch.culprits._aggregate import is_close
from largebatch.culprits._evidence import Evidence, Step, Update
from largebatch.culprits._verdict import Finding

__all__ = ["momentum_corrected_in_sgd", "rate_follows_no_rule", "scheduler_steps_per_micro_batch",
           "scheduler_steps_per_worker", "warmup_is_a_staircase"]  # fmt: skip

STAIR_UPDATES = 4  # an epoch of fewer updates has stairs no wider than that


def _calls(run: Evidence) -> list[tuple[Update, Step]]:
    """Updates after the first, which a scheduler steps before: its constructor does."""
    return [(update, step) for update in run.updates[1:] for step in update.steps[:1] if len(step.scheduler_calls) > 1]


def scheduler_steps_per_micro_batch(run: Evidence) -> Finding | None:
    """One step in every accumulation step: the schedule runs A times too fast."""
    for update, step in _calls(run):
        if len(set(step.scheduler_calls)) > 1:
            return Finding(
                "scheduler_steps_per_micro_batch", "wrong",
                f"update {update.number}: the scheduler stepped {len(step.scheduler_calls)} times, once for each "
                "micro-batch",
                "step the scheduler once per update, right after optimizer.step()",
                update=update.number, ratio=float(len(step.scheduler_calls)),
            )  # fmt: skip
    return None


def scheduler_steps_per_worker(run: Evidence) -> Finding | None:
    """Several steps at once in every update, as Accelerate's wrapper makes them: warmup is W times too short."""
    for update, step in _calls(run):
        times = len(step.scheduler_calls)
        if len(set(step.scheduler_calls)) == 1 and times == run.world_size > 1:
            return Finding(
                "scheduler_steps_per_worker", "wrong",
                f"update {update.number}: the scheduler stepped {times} times, once for each of the {run.world_size} "
                "workers",
                "count the schedule in updates and step it once: do not give the scheduler to accelerator.prepare (or set "
                "step_scheduler_with_optimizer=False and step it yourself, or split_batches=True)",
                update=update.number, ratio=float(times),
            )  # fmt: skip
    return None


def momentum_corrected_in_sgd(run: Evidence) -> Finding | None:
    """The buffer or the momentum of torch.optim.SGD is multiplied by the change of the rate.

    In most changes: a schedule that cycles the momentum against the rate (OneCycleLR) meets the ratio once by chance.
    """
    changes = _changes(run)
    corrected = [
        (update, step, change, scaled)
        for update, step, change in changes
        if (scaled := _is_scaled(run, update, step, change)) or _has_drifted(update, step, change)
    ]
    if not corrected or 2 * len(corrected) <= len(changes):
        return None
    update, step, change, scaled = corrected[0]
    return Finding(
        "momentum_corrected_in_sgd", "wrong",
        f"update {update.number}: the rate changed by {change:.4g} and so did "
        f"{'the momentum' if scaled else 'the momentum buffer'} of torch.optim.SGD",
        "leave it alone: torch.optim.SGD keeps the rate outside its buffer, so the buffer needs no correction",
        update=update.number, rank=step.rank, ratio=change,
    )  # fmt: skip


def _has_drifted(update: Update, step: Step, change: float) -> bool:
    """Whether the buffer was multiplied by the change of the rate, up to rounding; one that was left alone is the same."""
    tolerance = 1e-3 if update.tolerance < 1e-2 else 1e-2
    return step.buffer_drift != 1 and is_close(step.buffer_drift, change, tolerance)


def _changes(run: Evidence) -> list[tuple[Update, Step, float]]:
    """Steps of torch.optim.SGD at another rate than the step before, and by what it changed."""
    return [
        (update, step, step.rates[0] / earlier.rates[0])
        for before, update in zip(run.updates, run.updates[1:], strict=False)
        for earlier, step in zip(before.steps, update.steps, strict=False)
        if earlier.rates and step.rates and earlier.rates[0] and step.momenta
        and not is_close(step.rates[0] / earlier.rates[0], 1)
    ]  # fmt: skip


def _is_scaled(run: Evidence, update: Update, step: Step, change: float) -> bool:
    """Whether a step's momentum is the usual one of the other updates times the change of the rate."""
    others = Counter(s.momenta[0] for u in run.updates for s in u.steps if s.momenta and u is not update)
    usual = others.most_common(1)[0][0] if others else 0.0
    return usual != 0 and is_close(step.momenta[0], usual * change)


def warmup_is_a_staircase(run: Evidence) -> Finding | None:
    """The rate rises from one epoch to the next and stands still within them."""
    rates: dict[int, list[float]] = {}
    for update in run.updates:
        if update.steps and update.steps[0].rates:
            rates.setdefault(update.epoch, []).append(update.steps[0].rates[0])
    first, second = rates.get(1, []), rates.get(2, [])
    if len(first) < STAIR_UPDATES or not second or max(first) != min(first) or second[-1] <= first[-1]:
        return None
    return Finding(
        "warmup_is_a_staircase", "unusual",
        f"the rate stood at {first[-1]:.4g} in all {len(first)} updates of epoch 1 and rose to {second[-1]:.4g} in epoch 2",
        "step the warmup at every update: with large batches an epoch is few updates, and each stair is a jump",
        ratio=second[-1] / first[-1],
    )  # fmt: skip


def rate_follows_no_rule(run: Evidence, other: Evidence) -> Finding | None:
    """At another global batch the rate moves by a factor that is neither the batch's, nor its root, nor 1."""
    here, there = _start(run), _start(other)
    if here is None or there is None or here[0] == there[0]:
        return None
    k, change = here[0] / there[0], here[1] / there[1]
    if any(is_close(change, rule, 0.02) for rule in (1.0, k, math.sqrt(k))):
        return None
    return Finding(
        "rate_follows_no_rule", "unusual",
        f"{here[0] / there[0]:.3g} × the batch ({there[0]} to {here[0]} with {other.world_size} to {run.world_size} "
        "workers) comes "
        f"with {change:.3g} × the rate",
        f"the linear rule (SGD) would have {k:.3g}, the square root (Adam) {math.sqrt(k):.3g}: see `largebatch train "
        "--dry-run`",
        ratio=change,
    )  # fmt: skip


def _start(run: Evidence) -> tuple[int, float] | None:
    """(global batch, rate) of the first update."""
    for update in run.updates[:1]:
        if update.samples and update.steps and update.steps[0].rates and update.steps[0].rates[0]:
            return update.samples, update.steps[0].rates[0]
    return None
