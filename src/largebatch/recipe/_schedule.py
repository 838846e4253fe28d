"""The learning rate as a pure function of the samples seen before an update: warmup × decay.

Warmup: Goyal et al. 2017 (arXiv 1706.02677), section 2.2. Gradual warmup starts at the small-batch rate η (`start_lr`)
and adds a constant amount at every iteration until it reaches k·η (`lr`); constant warmup stays at η and jumps.
Decay by milestones: section 5.1 of the same paper (÷10 at epochs 30, 60, 80, counted from the start). Cosine
(Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5, without restarts) and polynomial run over what remains after
the warmup, so that the rate is exactly `lr` when warmup ends.
"""
# ruff: noqa: RUF009 (the calls in the class bodies make descriptors, not defaults that instances would share)

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from largebatch.recipe._calls import Form, read_call, refuse_unused, write_call
from largebatch.recipe._duration import Duration, DurationField, DurationsField, duration_reader
from largebatch.recipe._fields import Reader, Rule, Spelled, number, one_of, settle, tuple_of

__all__ = [
    "Schedule",
    "ScheduleField",
    "Warmup",
    "WarmupField",
    "decay",
    "schedule_reader",
    "warmup_rate",
    "warmup_reader",
]

_SCHEDULES: Mapping[str, Form] = {
    "constant": Form(),
    "step": Form("milestones", ("factor",), many=True),
    "cosine": Form(named=("final",)),
    "polynomial": Form("power", ("final",)),
}
_WARMUPS: Mapping[str, Form] = {
    "none": Form(),
    "constant": Form("duration", ("start_lr", "at_most")),
    "gradual": Form("duration", ("start_lr", "at_most")),
}


@dataclass(frozen=True)
class Schedule:
    """How the rate falls from its peak.

    Args:
        kind: how; "constant" does not fall.
        milestones: for step, when the rate is multiplied by `factor`, counted from the start of the phase.
        factor: for step.
        power: for polynomial, (1 − progress)^power.
        final: for cosine and polynomial, where the rate ends, as a share of the peak.

    Raises:
        ValueError: with every mistake.
    """

    kind: Literal["constant", "step", "cosine", "polynomial"] = "cosine"
    milestones: DurationsField = DurationsField(())
    factor: float = 0.1
    power: float = 1.0
    final: float = 0.0

    def __post_init__(self) -> None:
        settle(self, "schedule", _SCHEDULE_READERS, _SCHEDULE_RULES)

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        """The schedule a text stands for: "cosine", "step(30ep,60ep,80ep)", "polynomial(2,final=0.01)".

        `str` is the exact inverse.

        Raises:
            ValueError: with every mistake.
        """
        return cls(**read_call(text, "constant, step(30ep,60ep,80ep), cosine or polynomial(2)", _SCHEDULES))

    def __str__(self) -> str:
        return write_call(self, _SCHEDULES)


@dataclass(frozen=True)
class Warmup:
    """How the rate rises to its peak.

    Args:
        kind: "none", "constant" (`start_lr`, then a jump) or "gradual" (linear in the samples seen).
        duration: how long.
        start_lr: the rate before the first sample, absolute (not a share of the peak).
        at_most: a cap on `duration`, such as "0.2dur" for short runs.

    Raises:
        ValueError: with every mistake.
    """

    kind: Literal["none", "constant", "gradual"] = "none"
    duration: DurationField = DurationField(Duration(0, "ep"))
    start_lr: float = 0.0
    at_most: DurationField = DurationField(Duration(1, "dur"))

    def __post_init__(self) -> None:
        settle(self, "warmup", _WARMUP_READERS, _WARMUP_RULES)

    @classmethod
    def parse(cls, text: str) -> "Warmup":
        """The warmup a text stands for: "none", "gradual(5ep,start_lr=0.1)", "constant(5ep,at_most=0.2dur)".

        `str` is the exact inverse.

        Raises:
            ValueError: with every mistake.
        """
        return cls(**read_call(text, "none, gradual(5ep,start_lr=0.1) or constant(5ep,start_lr=0.1)", _WARMUPS))

    def __str__(self) -> str:
        return write_call(self, _WARMUPS)


ScheduleField = Spelled[Schedule, str]
WarmupField = Spelled[Warmup, str]


def schedule_reader(value: object) -> Schedule:
    """A Schedule, or its text."""
    return value if isinstance(value, Schedule) else Schedule.parse(value if isinstance(value, str) else repr(value))


def warmup_reader(value: object) -> Warmup:
    """A Warmup, its text, or None for none."""
    if value is None or isinstance(value, Warmup):
        return value or Warmup()
    return Warmup.parse(value if isinstance(value, str) else repr(value))


def warmup_rate(warmup: Warmup, lr: float, samples: float, warmup_samples: float) -> float:
    """The rate warmup allows after `samples` samples; exactly `lr` from the end of warmup on."""
    if warmup.kind == "none" or samples >= warmup_samples:
        return lr
    if warmup.kind == "constant":
        return warmup.start_lr
    return min(lr, warmup.start_lr + (lr - warmup.start_lr) * (samples / warmup_samples))


def decay(
    schedule: Schedule, samples: float, *, milestones: Sequence[float], begin_samples: float, end_samples: float
) -> float:
    """The share of the peak that is left after `samples` samples.

    Args:
        schedule: its kind decides which of the others count.
        samples: seen before the update.
        milestones: when a step schedule steps, in samples.
        begin_samples: where cosine and polynomial begin, the end of warmup; the share is exactly 1 up to there.
        end_samples: where they end; the share is exactly `final` from there on.
    """
    if schedule.kind == "step":
        return schedule.factor ** sum(samples >= milestone for milestone in milestones)
    if schedule.kind == "constant" or samples <= begin_samples:
        return 1.0
    left = max(0.0, (end_samples - samples) / (end_samples - begin_samples)) if samples < end_samples else 0.0
    shape = left**schedule.power if schedule.kind == "polynomial" else (1 - math.cos(math.pi * left)) / 2
    return shape + schedule.final * (1 - shape)


def _milestones_are_in_order(schedule: Schedule) -> str | None:
    """Compared where they have one unit; `mistakes_for` knows the data and compares them all."""
    if schedule.kind == "step" and not schedule.milestones:
        return "milestones: expected at least one, got none; write for example step(30ep,60ep,80ep)"
    pairs = pairwise(schedule.milestones)
    if any(earlier.unit == later.unit and earlier.value >= later.value for earlier, later in pairs):
        listed = ", ".join(map(str, schedule.milestones))
        return f"milestones: expected each later than the one before it, got {listed}; put them in order"
    return None


def _warmup_has_a_length(warmup: Warmup) -> str | None:
    if warmup.kind != "none" and 0 in (warmup.duration.value, warmup.at_most.value):
        return f"duration: expected more than 0 for a warmup, got {warmup}; write warmup=none to have none"
    return None


_ABOVE_0: Reader = number("a finite number above 0", lambda value: value > 0)

_SCHEDULE_READERS: Mapping[str, Reader] = {
    "kind": one_of(_SCHEDULES),
    "milestones": tuple_of(duration_reader, "a list of durations"),
    "factor": _ABOVE_0,
    "power": _ABOVE_0,
    "final": number("a share from 0 to 1 of the peak rate", lambda value: 0 <= value <= 1),
}
_SCHEDULE_RULES: Sequence[Rule] = (
    (("kind", "milestones"), _milestones_are_in_order),
    (tuple(_SCHEDULE_READERS), lambda schedule: refuse_unused(schedule, _SCHEDULES)),
)
_WARMUP_READERS: Mapping[str, Reader] = {
    "kind": one_of(_WARMUPS),
    "duration": duration_reader,
    "start_lr": number("a finite rate of at least 0", lambda value: value >= 0),
    "at_most": duration_reader,
}
_WARMUP_RULES: Sequence[Rule] = (
    (("kind", "duration", "at_most"), _warmup_has_a_length),
    (tuple(_WARMUP_READERS), lambda warmup: refuse_unused(warmup, _WARMUPS)),
)
