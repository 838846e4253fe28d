"""How bad numbers are told: every mistake in one error, a line each."""

import math
from collections.abc import Sequence

__all__ = ["from_zero", "positive", "refuse"]


def refuse(subject: str, mistakes: Sequence[str]) -> None:
    """Raise ValueError if there are mistakes.

    Args:
        subject: what was wrong as a whole, for example "plan".
        mistakes: a line each, "field: expected ..., got ...; what to do".
    """
    if mistakes:
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise ValueError("\n  ".join([f"{subject}: {count}", *mistakes]))


def positive(name: str, value: float, what: str, advice: str, *, infinite: bool = False) -> list[str]:
    """The mistake of a number that is not above 0, or none.

    Args:
        name, value: the field.
        what: the number that was expected, with its unit.
        advice: what to give.
        infinite: whether infinity is a value too.
    """
    if value > 0 and (infinite or math.isfinite(value)):
        return []
    return [f"{name}: expected {what}, above 0{'' if infinite else ' and finite'}, got {value}; {advice}"]


def from_zero(name: str, value: float, what: str, advice: str) -> list[str]:
    """The mistake of a number that is below 0 or not finite, or none; arguments as for `positive`."""
    if value >= 0 and math.isfinite(value):
        return []
    return [f"{name}: expected {what}, from 0 on and finite, got {value}; {advice}"]
