"""Search: the loss at displaced weights, f(x + e), and the highest loss of those seen.

Every worst-case sharpness is max f(x + e) − f(x) over some ball of e, and no search proves a maximum: what is reported is
the highest loss that was seen, x itself included, which bounds the maximum from below. A search ends where the loss is no
longer finite, and says so.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, final

from torch import Tensor

from largebatch.core import Risk

__all__ = ["Bar", "Finding", "Search", "require_finite", "searching"]


class Bar(Protocol):
    """What tells of progress: an evaluation is 1."""

    def update(self, n: float = 1, /) -> object:
        """`n` more are done."""
        ...


@dataclass(frozen=True)
class Finding:
    """What one kind of sharpness found; fields as in `Measurement`, which adds what every kind has.

    Args:
        unchanged_by: where the options change what the kind says of itself.
    """

    value: float
    stderr: float = math.nan
    low: float = math.nan
    high: float = math.nan
    details: dict[str, float] = field(default_factory=dict)
    note: str = ""
    unchanged_by: str | None = None


class LossNotFiniteError(ArithmeticError):
    """The search has come to weights where the loss is NaN or infinite."""


def require_finite(loss: float) -> None:
    """Refuse to measure around weights that have no loss.

    Raises:
        ValueError: the loss at the weights is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise ValueError(
            f"model: expected a finite loss at the weights to be measured, got {loss}: load a checkpoint from before the "
            "run diverged, or look for samples that are not finite"
        )


@final
class Search:
    """f(x + e) for displacements e of the weights x, counted and watched.

    Args:
        move: displaces the weights, as `Risk.displaced` gives it.
        bar: is moved by 1 at each evaluation.

    Raises:
        ValueError: the loss at x itself is not finite; see `require_finite`.
    """

    def __init__(self, risk: Risk, move: Callable[[Tensor], None], bar: Bar):
        self._risk = risk
        self._move = move
        self._bar = bar
        self.origin = risk.point()
        """x, (P,)."""
        self.loss, self.gradient = risk.value_and_gradient()
        require_finite(self.loss)
        self.highest = self.loss
        self.notes: list[str] = []
        self.evaluations = 0
        self._count(self.loss)

    @property
    def gain(self) -> float:
        """The highest loss seen − f(x), never negative."""
        return self.highest - self.loss

    def value(self, displacement: Tensor) -> float:
        """f(x + e). displacement: e, (P,)."""
        self._move(displacement)
        value = self._risk.value()
        self._count(value)
        return value

    def value_and_gradient(self, displacement: Tensor) -> tuple[float, Tensor]:
        """f(x + e) and its gradient, (P,)."""
        self._move(displacement)
        value, gradient = self._risk.value_and_gradient()
        self._count(value)
        return value, gradient

    def finding(self, value: float, details: Mapping[str, float], unchanged_by: str | None = None) -> Finding:
        """`value` as the lower bound that it is, with further `details`."""
        bound = f"a lower bound: the highest of {self.evaluations} points of the ball"
        return Finding(
            value,
            low=value,
            details={"loss": self.loss, "highest_loss": self.highest, "evaluations": self.evaluations} | dict(details),
            note="; ".join([bound, *self.notes]),
            unchanged_by=unchanged_by,
        )

    def _count(self, value: float) -> None:
        self.evaluations += 1
        self._bar.update(1)
        if not math.isfinite(value):
            self.notes.append(f"the search ended early, at weights whose loss is {value}")
            raise LossNotFiniteError
        self.highest = max(self.highest, value)


@contextmanager
def searching(risk: Risk, bar: Bar) -> Iterator[Search]:
    """A search from the present weights, which are put back; it is over as soon as a loss is not finite."""
    with risk.displaced() as move:
        search = Search(risk, move, bar)
        try:
            yield search
        except LossNotFiniteError:
            return
