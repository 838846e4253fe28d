"""Timeline: which samples, when, at which rate. The oracle walks through the batches one by one."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from largebatch.recipe import Duration, Recipe, Schedule, Timeline, Warmup

IMAGENET = 1_281_167


def recipe(batch=100, **fields):
    return Recipe(batch, **{"lr": 0.1, "ghost_batch_size": None, **fields})


def walk(train_size, batch, epochs):
    """(epoch, start, stop) of every update, as a loop over a permutation would meet them."""
    for epoch in range(epochs):
        cuts = [*range(0, train_size, batch), train_size]
        if len(cuts) > 2 and batch > 1 and cuts[-1] - cuts[-2] == 1:
            del cuts[-2]  # a single sample joins the batch before it
        yield from ((epoch, start, stop) for start, stop in pairwise(cuts))


SIZES = st.tuples(st.integers(1, 60), st.integers(1, 60)).map(lambda pair: (max(pair), min(pair)))


@given(SIZES)
@settings(deadline=None)
def test_batches_are_those_of_a_plain_loop(sizes):
    train_size, batch = sizes
    timeline = Timeline(recipe(batch, duration="3ep"), train_size)
    expected = list(walk(train_size, batch, 3))
    assert timeline.total_updates == len(expected) == 3 * timeline.updates_per_epoch
    assert timeline.total_samples == 3 * train_size
    seen = 0
    for update, (epoch, start, stop) in enumerate(expected):
        assert timeline.batch_of(update) == (epoch, start, stop)
        assert timeline.epoch_of(update) == epoch
        assert timeline.samples_before(update) == seen
        assert timeline.updates_until(seen) == update
        seen += stop - start


@given(SIZES, st.floats(0.01, 200))
@settings(deadline=None)
def test_a_phase_ends_with_the_first_update_that_reaches_its_duration(sizes, samples):
    train_size, batch = sizes
    timeline = Timeline(recipe(batch, duration=Duration(samples, "samples")), train_size)
    total = timeline.total_updates
    assert timeline.samples_before(total - 1) < timeline.resolve(f"{samples}samples") <= timeline.total_samples
    assert total >= 1


def test_a_batch_of_one_sample_joins_the_one_before_it():
    timeline = Timeline(recipe(10, duration="1ep"), 31)
    assert timeline.updates_per_epoch == 3
    assert timeline.batch_of(2) == (0, 20, 31)
    assert timeline.batch_of(3) == (1, 0, 10)
    assert Timeline(recipe(10, duration="1ep"), 32).batch_of(3) == (0, 30, 32)
    assert Timeline(recipe(1, duration="1ep"), 3).updates_per_epoch == 3  # batches of 1 are what was asked for


@pytest.mark.parametrize(
    ("text", "samples"),
    [
        ("2ep", 206),
        ("0.5ep", 51.5),
        ("11steps", 103),
        ("12steps", 113),
        ("10.5steps", 101.5),
        ("7samples", 7),
        ("0.1dur", 103),
    ],
)
def test_durations_in_samples(text, samples):
    # 103 samples in batches of 10: ten full ones and one of 3.
    assert Timeline(recipe(10, duration="10ep"), 103).resolve(text) == samples


@given(st.integers(1, 300), st.integers(2, 5000))
@settings(deadline=None)
def test_float_rounding_does_not_add_an_update(tenths, train_size):
    timeline = Timeline(recipe(1, duration=Duration(tenths / 10, "ep")), train_size)
    assert timeline.total_updates == math.ceil(tenths * train_size / 10)


def test_half_an_epoch_and_steps_as_duration():
    assert Timeline(recipe(100, duration="0.5ep"), 1000).total_updates == 5
    assert Timeline(recipe(100, duration="2000steps"), 1050).total_updates == 2000
    assert Timeline(recipe(100, duration="62.5steps"), 1000).total_updates == 63


def horovod(epoch, k, warmup_epochs):
    """Goyal's gradual warmup in Horovod's closed form, as a multiple of the small-batch rate times k."""
    return (epoch * (k - 1) / warmup_epochs + 1) / k


@given(st.sampled_from([512, 1000, 2048, 8192, 65536]), st.floats(0, 5))
@settings(deadline=None)
def test_gradual_warmup_is_horovods_closed_form(batch, epoch):
    k = batch / 256
    timeline = Timeline(Recipe(256, lr=0.1, schedule="step(30ep,60ep,80ep)").at(batch), IMAGENET)
    expected = 0.1 * k * horovod(epoch, k, 5)
    assert timeline.rate(epoch * IMAGENET) == pytest.approx(expected, rel=1e-12)


def test_goyals_run_at_8192():
    timeline = Timeline(Recipe(256, lr=0.1, schedule="step(30ep,60ep,80ep)").at(8192), IMAGENET)
    assert timeline.rate(0) == 0.1
    assert timeline.rate(5 * IMAGENET) == 3.2
    assert timeline.rate(timeline.samples_before(5 * timeline.updates_per_epoch - 1)) < 3.2
    assert timeline.warmup_samples == 5 * IMAGENET
    for epoch, rate in [(29.99, 3.2), (30, 0.32), (59.99, 0.32), (60, 0.032), (80, 0.0032), (89.9, 0.0032)]:
        assert timeline.rate(epoch * IMAGENET) == pytest.approx(rate, rel=1e-12)


@given(
    st.sampled_from(["constant", "cosine", "polynomial(2)", "cosine(final=0.3)"]),
    st.floats(1e-3, 10),
    st.floats(0, 1),
    st.floats(0.1, 9),
)
@settings(deadline=None)
def test_the_rate_rises_to_exactly_lr_and_then_never_rises(schedule, lr, start_share, warmup_epochs):
    warmup = Warmup("gradual", Duration(warmup_epochs, "ep"), start_lr=lr * start_share)
    timeline = Timeline(recipe(lr=lr, duration="10ep", schedule=schedule, warmup=warmup), 1000)
    rates = [timeline.rate(timeline.samples_before(update)) for update in range(timeline.total_updates)]
    peak = math.ceil(timeline.warmup_samples / 100)
    assert timeline.rate(timeline.warmup_samples) == lr
    assert rates[0] == lr * start_share
    assert all(a <= b for a, b in pairwise(rates[:peak]))
    assert all(a >= b for a, b in pairwise(rates[peak:]))
    assert max(rates) <= lr


def test_warmup_moves_at_every_update_not_by_epochs():
    timeline = Timeline(recipe(warmup="gradual(2ep,start_lr=0.01)", duration="10ep"), 1000)
    rates = [timeline.rate(timeline.samples_before(update)) for update in range(20)]
    steps = [b - a for a, b in pairwise(rates)]
    assert steps == pytest.approx([0.09 / 20] * 19, rel=1e-9)


def test_constant_warmup_jumps_and_the_cap_shortens():
    timeline = Timeline(
        recipe(warmup="constant(5ep,start_lr=0.02,at_most=0.2dur)", schedule="constant", duration="10ep"), 1000
    )
    assert timeline.warmup_samples == 2000
    assert [timeline.rate(s) for s in (0, 1999, 2000)] == [0.02, 0.02, 0.1]


def test_cosine_and_polynomial_run_over_what_remains_after_warmup():
    cosine = Timeline(recipe(warmup="gradual(2ep)", duration="10ep", schedule="cosine(final=0.1)"), 1000)
    assert cosine.rate(2000) == 0.1
    assert cosine.rate(6000) == pytest.approx(0.1 * (0.1 + 0.9 / 2))
    assert cosine.rate(4000) == pytest.approx(0.1 * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2))
    assert cosine.rate(10_000) == cosine.rate(11_000) == pytest.approx(0.01)
    square = Timeline(recipe(duration="10ep", schedule="polynomial(2)"), 1000)
    assert square.rate(5000) == pytest.approx(0.025)
    assert square.rate(10_000) == 0


def test_a_warmup_as_long_as_the_phase_ends_at_its_peak():
    timeline = Timeline(recipe(warmup="gradual(20ep)", duration="10ep"), 1000)
    assert timeline.warmup_samples == 10_000
    assert timeline.rate(10_000) == 0.1
    assert timeline.rate(5000) == pytest.approx(0.05)


def test_a_milestone_inside_warmup_counts_at_once():
    timeline = Timeline(recipe(warmup="gradual(2ep)", duration="10ep", schedule=Schedule("step", ("1ep",))), 1000)
    assert timeline.rate(1500) == pytest.approx(0.1 * 0.75 * 0.1)


@pytest.mark.parametrize(
    ("fields", "train_size", "message"),
    [
        (
            {"global_batch_size": 100},
            99,
            "global_batch_size: expected at most the 99 samples .* got 100; take a smaller",
        ),
        ({"global_batch_size": 1}, 0, "train_size: expected a whole number of at least 1, got 0"),
        ({"global_batch_size": 1}, 10.5, "train_size: expected a whole number of at least 1, got 10.5"),
        (
            {"global_batch_size": 10, "schedule": "step(5ep,40steps)"},
            100,
            "schedule.milestones: expected each later .* 5ep, 40steps, which on 100 samples are 500, 400; put",
        ),
    ],
)
def test_what_the_data_do_not_allow_is_refused(fields, train_size, message):
    with pytest.raises(ValueError, match=message):
        Timeline(Recipe(lr=0.1, ghost_batch_size=None, **fields), train_size)


@pytest.mark.parametrize("ask", [Timeline.batch_of, Timeline.epoch_of, Timeline.samples_before])
def test_an_update_before_the_first_is_refused(ask):
    with pytest.raises(ValueError, match="update: expected a number from 0 on, got -1"):
        ask(Timeline(recipe(), 1000), -1)


@given(st.integers(2, 40), st.integers(41, 400), st.floats(0, 500))
@settings(deadline=None)
def test_steps_and_samples_before_agree(batch, train_size, steps):
    timeline = Timeline(recipe(batch), train_size)
    resolved = timeline.resolve(Duration(steps, "steps"))
    assert timeline.samples_before(math.floor(steps)) <= resolved * (1 + 1e-8)
    assert resolved <= timeline.samples_before(math.ceil(steps)) * (1 + 1e-8)
