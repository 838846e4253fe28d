"""Schedules and warmups: their texts, and what they refuse. The rates themselves are in test_timeline."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from largebatch.recipe import Duration, Schedule, Warmup

ABOVE_0 = st.floats(min_value=1e-6, max_value=1e6)
LENGTHS = st.builds(Duration, ABOVE_0, st.sampled_from(["ep", "steps", "samples", "dur"]))
INCREASING = st.lists(ABOVE_0, min_size=1, max_size=4, unique=True).map(
    lambda v: tuple(Duration(x, "ep") for x in sorted(v))
)
SHARES = st.floats(min_value=0, max_value=1)
SCHEDULES = st.one_of(
    st.just(Schedule("constant")),
    st.builds(Schedule, st.just("step"), milestones=INCREASING, factor=ABOVE_0),
    st.builds(Schedule, st.just("cosine"), final=SHARES),
    st.builds(Schedule, st.just("polynomial"), power=ABOVE_0, final=SHARES),
)
WARMUPS = st.one_of(
    st.just(Warmup()),
    st.builds(
        Warmup, st.sampled_from(["constant", "gradual"]), LENGTHS, start_lr=ABOVE_0 | st.just(0.0), at_most=LENGTHS
    ),
)


@given(SCHEDULES)
@settings(deadline=None)
def test_schedule_text_reads_back_as_exactly_this_schedule(schedule):
    assert Schedule.parse(str(schedule)) == schedule


@given(WARMUPS)
@settings(deadline=None)
def test_warmup_text_reads_back_as_exactly_this_warmup(warmup):
    assert Warmup.parse(str(warmup)) == warmup


@given(st.text(alphabet="stepcoinrdual(),=0159.ep ", max_size=20))
@settings(deadline=None)
def test_any_text_is_a_schedule_and_a_warmup_or_a_value_error(text):
    for kind in (Schedule, Warmup):
        found = outcome(kind, text)
        assert isinstance(found, kind) or "expected" in str(found)


def outcome(kind, text):
    try:
        return kind.parse(text)
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("cosine", Schedule()),
        ("constant", Schedule("constant")),
        ("step(30ep, 60ep,80ep)", Schedule("step", ("30ep", "60ep", "80ep"))),
        ("step(30ep,factor=0.2)", Schedule("step", [Duration(30, "ep")], factor=0.2)),
        ("polynomial(2)", Schedule("polynomial", power=2)),
        ("polynomial(2, final = 1e-4)", Schedule("polynomial", power=2, final=1e-4)),
    ],
)
def test_the_forms_of_a_schedule_are_read(text, schedule):
    assert Schedule.parse(text) == schedule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosin", "got 'cosin'; did you mean 'cosine'"),
        ("step(30ep", r"got 'step\(30ep'"),
        ("step(30)", "milestones: expected a duration such as 5ep"),
        ("step", "milestones: expected at least one, got none"),
        ("step(60ep,30ep)", "milestones: expected each later than the one before it, got 60ep, 30ep"),
        ("cosine(5ep)", "expected cosine with final=, got"),
        ("cosine(power=2)", "expected cosine with final=, got"),
        ("constant(1)", "expected constant with nothing, got"),
        ("polynomial(2,3)", "expected polynomial with power, final=, got"),
        ("polynomial(2,final=0.1,final=0.2)", "give only these, each once"),
        ("polynomial(x)", "power: expected a finite number above 0, got 'x'"),
        ("cosine(final=2)", "final: expected a share from 0 to 1"),
    ],
)
def test_a_wrong_schedule_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Schedule.parse(text)


def test_mistakes_of_a_schedule_are_told_together():
    with pytest.raises(ValueError, match=r"schedule: 3 mistakes\n  kind: .*\n  factor: .*\n  final: ") as caught:
        Schedule("cosinus", factor=-1, final=float("nan"))
    assert "did you mean 'cosine'" in str(caught.value)
    with pytest.raises(ValueError, match="milestones: expected a list of durations, got 3; give a tuple"):
        Schedule("step", 3)


def test_a_parameter_that_would_be_ignored_is_refused():
    with pytest.raises(
        ValueError, match=r"factor, power: expected nothing, because 'cosine' does not use it, got 0\.5, 2"
    ):
        Schedule("cosine", factor=0.5, power=2)
    with pytest.raises(ValueError, match=r"milestones: expected nothing.*got 1ep; .*a kind that does \(step\)"):
        Schedule("cosine", ("1ep",))
    with pytest.raises(ValueError, match=r"start_lr: expected nothing.*choose a kind that does \(constant, gradual\)"):
        Warmup(start_lr=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gradul(5ep)", "did you mean 'gradual'"),
        ("gradual", "duration: expected more than 0 for a warmup, got gradual"),
        ("gradual(5ep,at_most=0dur)", "duration: expected more than 0"),
        ("gradual(5ep,0.1)", "expected gradual with duration, start_lr=, at_most=, got"),
        ("gradual(5ep,start_lr=-1)", "start_lr: expected a finite rate of at least 0, got -1"),
        ("gradual(5)", "duration: expected a duration such as 5ep.*got '5'"),
        ("none(5ep)", "expected none with nothing"),
    ],
)
def test_a_wrong_warmup_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Warmup.parse(text)
