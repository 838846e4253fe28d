"""Typed lengths: their texts, their limits."""

import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from largebatch.recipe import Duration

VALUES = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
UNITS = st.sampled_from(["ep", "steps", "samples", "dur"])


@given(VALUES, UNITS)
@settings(deadline=None)
def test_text_reads_back_as_exactly_this_duration(value, unit):
    assert Duration.parse(str(Duration(value, unit))) == Duration(value, unit)


@given(st.text(max_size=12))
@settings(deadline=None)
def test_any_text_is_a_duration_or_a_value_error(text):
    found = outcome(text)
    if isinstance(found, Duration):
        assert math.isfinite(found.value)
        assert found.value >= 0
    else:
        assert repr(text) in str(found)


def outcome(text):
    try:
        return Duration.parse(text)
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("text", "value", "unit", "canonical"),
    [
        ("5ep", 5, "ep", "5ep"),
        ("2000steps", 2000, "steps", "2000steps"),
        ("1e6samples", 1e6, "samples", "1000000samples"),
        ("0.05dur", 0.05, "dur", "0.05dur"),
        (" 1.5e1 ep ", 15, "ep", "15ep"),
        (".5ep", 0.5, "ep", "0.5ep"),
    ],
)
def test_the_four_forms_are_read(text, value, unit, canonical):
    assert Duration.parse(text) == Duration(value, unit)
    assert str(Duration.parse(text)) == canonical


@pytest.mark.parametrize(
    "text", ["", "5", "ep", "5epochs", "5 e p", "-1ep", "nanep", "infsteps", "1e999samples", "5ep 3ep"]
)
def test_a_wrong_text_is_refused_with_the_text_and_the_four_forms(text):
    with pytest.raises(ValueError, match=r"5ep, 2000steps, 1e6samples or 0\.05dur, got") as caught:
        Duration.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("value", "unit"),
    [(-1, "ep"), (math.nan, "ep"), (math.inf, "steps"), (True, "ep"), ("5", "ep"), (5, "epochs"), (None, "ep")],
)
def test_a_wrong_value_or_unit_is_refused(value, unit):
    with pytest.raises(ValueError, match="expected a duration, a finite number from 0 on with its unit"):
        Duration(value, unit)


def test_times_keeps_the_unit_and_pickling_the_value():
    assert Duration(2, "ep").times(1.5) == Duration(3, "ep")
    assert pickle.loads(pickle.dumps(Duration(2, "ep"))) == Duration(2, "ep")  # noqa: S301
