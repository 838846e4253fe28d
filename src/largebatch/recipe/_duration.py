"""Typed lengths of training: "5ep", "2000steps", "1e6samples", "0.05dur".

A bare number does not say what happens to it when the batch changes: 1000 steps at batch 256 are 32 times fewer samples
than at 8192, 5 epochs are the same number. So every length carries its unit, and only a `Timeline`, which knows
the data and the batch, turns it into samples.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from largebatch.recipe._calls import number_text
from largebatch.recipe._fields import Spelled, real

__all__ = ["Duration", "DurationField", "DurationsField", "duration_reader"]

Unit = Literal["ep", "steps", "samples", "dur"]

_FORMS = "5ep, 2000steps, 1e6samples or 0.05dur"
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_TEXT = re.compile(rf"\s*({_NUMBER})\s*({'|'.join(get_args(Unit))})\s*")


@dataclass(frozen=True)
class Duration:
    """A length of training.

    Args:
        value: how many; finite, not negative.
        unit: "ep" passes over the training data, "steps" optimiser updates, "samples" examples, "dur" shares of the
            whole phase.

    Raises:
        ValueError: for a value or unit outside these.
    """

    value: float
    unit: Unit

    def __post_init__(self) -> None:
        value = real(self.value)
        if self.unit not in get_args(Unit) or value is None or value < 0:
            raise ValueError(
                f"expected a duration, a finite number from 0 on with its unit, such as {_FORMS}, "
                f"got {self.value!r} {self.unit!r}; give one of these four forms"
            )
        object.__setattr__(self, "value", value)

    @classmethod
    def parse(cls, text: str) -> "Duration":
        """The duration a text such as "5ep" stands for; `str` is the exact inverse.

        Raises:
            ValueError: with the text and the four forms.
        """
        match = _TEXT.fullmatch(text)
        value = float(match[1]) if match else -1.0
        if match is None or value < 0 or math.isinf(value):
            raise ValueError(
                f"expected a duration such as {_FORMS}, got {text!r}; give a number with one of these four units"
            )
        return cls(value, cast(Unit, match[2]))

    def __str__(self) -> str:
        return f"{number_text(self.value)}{self.unit}"

    def times(self, factor: float) -> "Duration":
        """The same unit, `factor` times as many."""
        return Duration(self.value * factor, self.unit)


DurationField = Spelled[Duration, str]
DurationsField = Spelled[tuple[Duration, ...], Sequence[Duration | str]]


def duration_reader(value: object) -> Duration:
    """A Duration, or its text."""
    if isinstance(value, Duration):
        return value
    return Duration.parse(value if isinstance(value, str) else repr(value))
