"""What verbs hand on: frozen values that go to JSON and come back equal.

A number without its uncertainty is not a result, so the value they are made of is `Estimate`.
"""

import dataclasses
import difflib
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, Union, cast, get_args, get_origin, get_type_hints

__all__ = ["Estimate", "Result"]


@dataclass(frozen=True)
class Result:
    """Base of all results: subclasses are frozen dataclasses of numbers, texts, tuples, dicts and other results."""

    def to_json(self) -> dict[str, Any]:
        """Plain data, fields by name; tuples become lists. Non-finite floats stay floats: writing encodes them."""
        return {item.name: _plain(getattr(self, item.name)) for item in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The result `to_json` wrote, by the annotations of the fields.

        Raises:
            ValueError: with every field that is unknown or missing.
        """
        fields = dataclasses.fields(cls)
        names = [item.name for item in fields]
        needed = [
            item.name
            for item in fields
            if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        ]
        mistakes = [f"{name}: no such field{_did_you_mean(name, names)}" for name in data if name not in names]
        mistakes += [f"{name}: expected a value, got none; measure again" for name in needed if name not in data]
        if mistakes:
            raise ValueError("\n  ".join([f"{cls.__name__}: {len(mistakes)} mistake(s)", *mistakes]))
        hints = get_type_hints(cls)
        return cls(**{name: _typed(hints[name], value) for name, value in data.items()})


@dataclass(frozen=True)
class Estimate(Result):
    """A measured number with its uncertainty.

    Args:
        value: the estimate, in `unit`.
        stderr: its standard error; NaN where it cannot be told.
        low, high: the interval at `level`; NaN where it cannot be told.
        n: how many independent measurements (seeds) it rests on.
        unit: for example "%"; "" for a plain number.
        level: the probability with which such intervals cover the truth.
        note: what limits it, in words; "" where nothing does.
    """

    value: float
    stderr: float
    low: float
    high: float
    n: int
    unit: str = ""
    level: float = 0.95
    note: str = ""

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if math.isnan(self.low) or math.isnan(self.high):
            return f"{self.value:.4g}{unit} (n = {self.n}, no interval)"
        digits = _decimals((self.high - self.low) / 2)
        return f"{self.value:z.{digits}f} [{self.low:z.{digits}f}, {self.high:z.{digits}f}]{unit}"


def _decimals(half_width: float) -> int:
    """Decimals that show two digits of the uncertainty, for more would be noise."""
    if half_width <= 0 or math.isinf(half_width):
        return 4
    return min(max(1 - math.floor(math.log10(half_width)), 0), 12)


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.to_json()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in cast(Mapping[str, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast(list[Any], value)]
    return value


def _typed(hint: Any, value: Any) -> Any:
    """JSON data as the annotation has it: results, tuples and floats are not what JSON says they are."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        options = [option for option in inner if option is not type(None)]
        return _typed(options[0], value) if len(options) == 1 else value
    if origin is tuple and isinstance(value, list):
        items = cast(list[Any], value)
        hints = [inner[0]] * len(items) if inner[-1] is ... else inner
        return tuple(_typed(hint, item) for hint, item in zip(hints, items, strict=True))
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {name: _typed(inner[1], item) for name, item in cast(dict[str, Any], value).items()}
    if isinstance(hint, type) and issubclass(hint, Result):
        return hint.from_json(value)
    return float(value) if hint is float else value


def _did_you_mean(given: str, names: list[str]) -> str:
    near = difflib.get_close_matches(given, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
