"""Measurement: one number about one set of weights, with all that a reader needs to trust it.

A sharpness without its batch-norm mode, its sample or its cost has been misread before (Metric 2.1 changes up to
sevenfold with the mode), so these travel with the value.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import final

from largebatch.core._risk import Risk
from largebatch.results import Result

__all__ = ["Measurement", "Stopwatch", "stopwatch"]


@dataclass(frozen=True)
class Measurement(Result):
    """One number about a model at its present weights.

    Args:
        name: of the metric.
        value: the number.
        stderr: its standard error or error bound; 0 where it is exact up to rounding, NaN where it cannot be told.
        low, high: the interval in which it lies, at 95 % or by a bound, as `note` says; NaN where it cannot be told.
        batch_norm: whose statistics: "running", "batch", "reestimated"; "none" where the model has no batch norm.
        samples: on which it was measured.
        seed: of whatever was drawn.
        dtype: in which it was computed, such as "float32".
        passes: its cost, in forward and backward passes over the samples, by count of operations.
        seconds: its cost on this machine.
        details: further numbers by name, such as the radius.
        unchanged_by: the rescalings of a network that leave it as it is, in words.
        note: what limits it, in words.
    """

    name: str
    value: float
    stderr: float
    low: float
    high: float
    batch_norm: str
    samples: int
    seed: int
    dtype: str
    passes: float
    seconds: float
    details: dict[str, float] = field(default_factory=dict)
    unchanged_by: str = ""
    note: str = ""


@final
class Stopwatch:
    """Passes and seconds since it was made; frozen when its `stopwatch` ends."""

    def __init__(self, *risks: Risk):
        self._risks = risks
        self._begun = time.perf_counter(), self._spent()
        self.seconds = 0.0
        self.passes = 0.0

    def read(self) -> None:
        """Set `seconds` and `passes` to what was spent so far."""
        self.seconds = time.perf_counter() - self._begun[0]
        self.passes = self._spent() - self._begun[1]

    def _spent(self) -> float:
        return sum(risk.passes for risk in self._risks)


@contextmanager
def stopwatch(*risks: Risk) -> Iterator[Stopwatch]:
    """What the block costs: read it after the block."""
    watch = Stopwatch(*risks)
    try:
        yield watch
    finally:
        watch.read()
