"""Results go to JSON and come back equal, whatever they hold."""

import json
import math
from dataclasses import dataclass, field

import pytest

from largebatch.results import Estimate, Result, decode, json_text

ACCURACY = Estimate(97.81, 0.07, 97.6, 98.0, 5, "%")


@dataclass(frozen=True)
class Sweep(Result):
    name: str
    batches: tuple[int, ...]
    accuracy: tuple[Estimate, ...]
    pair: tuple[float, str]
    best: Estimate | None = None
    losses: dict[str, float] = field(default_factory=dict)
    extra: int | str = 0


SWEEP = Sweep("a", (1, 2), (ACCURACY, ACCURACY), (1.0, "x"), ACCURACY, {"train": 0.5, "test": math.inf}, "y")


@pytest.mark.parametrize("result", [ACCURACY, SWEEP, Sweep("a", (), (), (1.0, ""))])
def test_a_result_comes_back_equal(result):
    assert type(result).from_json(decode(json.loads(json_text(result.to_json())))) == result


def test_floats_stay_floats():
    back = Estimate.from_json({"value": 1, "stderr": 0, "low": 1, "high": 1, "n": 3})
    assert (type(back.value), type(back.n)) == (float, int)


def test_unknown_and_missing_fields_are_told_together():
    with pytest.raises(
        ValueError, match=r"Estimate: 3 mistake\(s\)\n  valu: no such field; did you mean 'value'"
    ) as caught:
        Estimate.from_json({"valu": 1, "stderr": 0, "low": 1, "high": 1})
    assert "value: expected a value, got none; measure again" in str(caught.value)
    assert "n: expected a value" in str(caught.value)


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (ACCURACY, "97.81 [97.60, 98.00] %"),
        (Estimate(0.123456, 0.001, 0.121, 0.126, 3), "0.1235 [0.1210, 0.1260]"),
        (Estimate(15000, 900, 13000, 17000, 3, "samples"), "15000 [13000, 17000] samples"),
        (Estimate(0.5, 0, 0.5, 0.5, 3), "0.5000 [0.5000, 0.5000]"),
        (Estimate(0.5, math.nan, math.nan, math.nan, 1, "%"), "0.5 % (n = 1, no interval)"),
        (Estimate(-1e-9, 0.1, -0.2, 0.2, 3), "0.00 [-0.20, 0.20]"),
        (Estimate(0.5, math.inf, -math.inf, math.inf, 2), "0.5000 [-inf, inf]"),
    ],
)
def test_an_estimate_shows_as_many_digits_as_its_interval_allows(estimate, text):
    assert str(estimate) == text
