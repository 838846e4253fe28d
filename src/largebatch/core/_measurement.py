"""What is measured on a model, with all that a reader needs to trust it: under which conditions, and at what cost.

A sharpness without its batch-norm mode, its sample or its cost has been misread before (Metric 2.1 changes up to
sevenfold with the mode), so these travel with the value. `Measured` holds them for every such result, `Measurement` is
the simplest: one number.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

from largebatch.core._batchnorm import has_batch_norm
from largebatch.core._risk import Risk
from largebatch.results import Result

__all__ = ["Measured", "Measurement", "Stopwatch", "stopwatch"]


@dataclass(frozen=True, kw_only=True)
class Measured(Result):
    """Base of what is measured on a model at given weights: the conditions and the cost.

    Args:
        batch_norm: whose statistics: "running" (the model's own), "batch", "reestimated"; "none" where the model has no
            batch norm.
        samples: on which it was measured, or from which they were drawn.
        dtype: in which it was computed, such as "float32".
        passes: its cost, in forward and backward passes over the samples, by count of operations.
        seconds: its cost on this machine.
        note: what limits it, in words.
    """

    batch_norm: str
    samples: int
    dtype: str
    passes: float
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Measurement(Measured):
    """One number about a model at its present weights.

    Args:
        name: of the metric.
        value: the number.
        stderr: its standard error or error bound; 0 where it is exact up to rounding, NaN where it cannot be told.
        low, high: the interval in which it lies, at 95 % or by a bound, as `note` says; NaN where it cannot be told.
        seed: of whatever was drawn.
        details: further numbers by name, such as the radius.
        unchanged_by: the rescalings of a network that leave it as it is, in words.
    """

    name: str
    value: float
    stderr: float
    low: float
    high: float
    seed: int
    details: dict[str, float] = field(default_factory=dict)
    unchanged_by: str = ""


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

    def conditions(self, batch_norm: str | None = None) -> dict[str, Any]:
        """The fields of `Measured`, but for the note, of the first risk.

        Args:
            batch_norm: the mode, where it is not the risk's own, as with statistics re-estimated at each point.
        """
        risk = self._risks[0]
        return {
            "batch_norm": (batch_norm or risk.batch_norm) if has_batch_norm(risk.model) else "none",
            "samples": risk.samples,
            "dtype": str(risk.dtype).removeprefix("torch."),
            "passes": self.passes,
            "seconds": self.seconds,
        }

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
