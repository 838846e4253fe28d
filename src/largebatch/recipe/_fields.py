"""What the fields of a recipe accept: one reader per field, and rules that join several fields.

A reader takes a value as it was given (in Python, from JSON, from `--set`) and returns it as it is stored, or raises a
ValueError "expected ..., got ...; what to do". `settle` runs all of them, so that all mistakes are told at once.
"""

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

from largebatch.recipe._mistakes import RecipeError, did_you_mean, located

__all__ = [
    "Reader",
    "Rule",
    "Spelled",
    "flag",
    "instance_of",
    "number",
    "one_of",
    "optional",
    "real",
    "settle",
    "tuple_of",
    "whole",
]

Reader = Callable[[object], Any]
Rule = tuple[tuple[str, ...], Callable[[Any], str | None]]
"""The fields a rule looks at, and the rule: an instance → the mistake, or None. It runs if all these fields read well."""

_Read = TypeVar("_Read")
_Given = TypeVar("_Given")


class Spelled(Generic[_Read, _Given]):
    """A dataclass field that may be given in another spelling than it is read in.

    A descriptor-typed field (Python library reference, dataclasses): it holds what it is given, and `settle` replaces a
    spelling by what it means. It is what tells a type checker that `duration="5ep"` may be written and
    `.duration.unit` read.
    """

    def __init__(self, default: _Read) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> _Read:
        return self._default if instance is None else instance.__dict__[self._name]

    def __set__(self, instance: object, value: _Read | _Given) -> None:
        instance.__dict__[self._name] = value


def settle(instance: object, subject: str, readers: Mapping[str, Reader], rules: Sequence[Rule] = ()) -> None:
    """Read every field of a frozen dataclass in place, then apply the rules that join fields.

    Raises:
        ValueError: with every mistake, a line each.
    """
    wrong: dict[str, list[str]] = {}
    for name, read in readers.items():
        try:
            object.__setattr__(instance, name, read(getattr(instance, name)))
        except ValueError as error:
            wrong[name] = located(name, error)
    mistakes = [line for lines in wrong.values() for line in lines]
    for names, rule in rules:
        broken = None if wrong.keys() & set(names) else rule(instance)
        mistakes += [broken] if broken else []
    if mistakes:
        raise RecipeError(subject, mistakes)


def real(value: object) -> float | None:
    """A finite number as a float; None for all else, also for True, which Python counts as 1, and for text."""
    try:
        number = None if isinstance(value, bool | str | bytes) else float(cast(float, value))
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number is not None and math.isfinite(number) else None


def number(expected: str, accept: Callable[[float], bool], advice: str = "give such a number") -> Reader:
    """A finite float within limits."""

    def read(value: object) -> float:
        given = real(value)
        if given is None or not accept(given):
            raise ValueError(f"expected {expected}, got {value!r}; {advice}")
        return given

    return read


def whole(minimum: int, advice: str) -> Reader:
    """An int of at least `minimum`; a float or a bool is refused, for 256.5 samples or True steps are a mistake."""

    def read(value: object) -> int:
        try:
            given = None if isinstance(value, bool) else operator.index(cast(int, value))
        except TypeError:
            given = None
        if given is None or given < minimum:
            raise ValueError(f"expected a whole number of at least {minimum}, got {value!r}; {advice}")
        return given

    return read


def flag(value: object) -> bool:
    """True or False, not 0, 1 or text."""
    if not isinstance(value, bool):
        raise ValueError(f"expected True or False, got {value!r}; give one of them")
    return value


def one_of(names: Iterable[str]) -> Reader:
    """One of some names."""
    names = tuple(names)

    def read(value: object) -> object:
        if value not in names:
            raise ValueError(
                f"expected one of {', '.join(names)}, got {value!r}{did_you_mean(value, names) or '; choose one of them'}"
            )
        return value

    return read


def optional(read: Reader) -> Reader:
    """None, or what `read` accepts."""
    return lambda value: None if value is None else read(value)


def instance_of(kind: type) -> Reader:
    """A value of one class."""

    def read(value: object) -> object:
        if not isinstance(value, kind):
            raise ValueError(f"expected a {kind.__name__}, got {value!r}; build one")
        return value

    return read


def tuple_of(read: Reader, expected: str) -> Reader:
    """A list or tuple of what `read` accepts, stored as a tuple."""

    def read_all(values: object) -> tuple[Any, ...]:
        if not isinstance(values, list | tuple):
            raise ValueError(f"expected {expected}, got {values!r}; give a tuple")
        return tuple(read(value) for value in cast(Iterable[object], values))

    return read_all
