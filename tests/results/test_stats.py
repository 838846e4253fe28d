"""Intervals over seeds, against scipy.stats and against their own promise."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from largebatch.results import (
    line_fit,
    mean_interval,
    paired_difference,
    paired_ratio,
    welch_difference,
    welch_ratio,
)

VALUES = st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=12).filter(lambda v: np.std(v) > 1e-6)
LEVELS = st.sampled_from([0.8, 0.9, 0.95, 0.99])


@given(VALUES, LEVELS)
@settings(deadline=None, max_examples=50)
def test_the_mean_interval_is_scipys(values, level):
    from scipy import stats

    ours = mean_interval(values, level=level)
    low, high = stats.t.interval(level, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (ours.value, ours.stderr) == pytest.approx((np.mean(values), stats.sem(values)), rel=1e-9, abs=1e-9)
    assert (ours.low, ours.high) == pytest.approx((low, high), rel=1e-7, abs=1e-9)
    assert ours.n == len(values)


@given(VALUES, st.integers(0, 2**32 - 1), LEVELS)
@settings(deadline=None, max_examples=50)
def test_the_paired_difference_is_scipys(a, seed, level):
    from scipy import stats

    b = np.asarray(a) + np.random.default_rng(seed).normal(size=len(a))
    ours = paired_difference(a, list(b), level=level)
    theirs = stats.ttest_rel(a, b).confidence_interval(level)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-6, abs=1e-9)
    assert paired_difference(list(b), a, level=level).low == pytest.approx(-ours.high, rel=1e-6, abs=1e-9)


@given(VALUES, VALUES, LEVELS)
@settings(deadline=None, max_examples=50)
def test_the_unpaired_difference_is_scipys_welch(a, b, level):
    from scipy import stats

    ours = welch_difference(a, b, level=level)
    theirs = stats.ttest_ind(a, b, equal_var=False).confidence_interval(level)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-6, abs=1e-9)
    assert welch_difference(b, a, level=level).low == pytest.approx(-ours.high, rel=1e-6, abs=1e-9)
    assert ours.n == min(len(a), len(b))


POSITIVE = st.lists(st.tuples(st.floats(1e-2, 1e2), st.floats(1e-2, 1e2)), min_size=3, max_size=8)


@given(POSITIVE, st.floats(0.1, 10))
@settings(deadline=None, max_examples=50)
def test_a_ratio_does_not_depend_on_the_unit_and_inverts(pairs, unit):
    a, b = (list(values) for values in zip(*pairs, strict=True))
    for ratio in (paired_ratio, welch_ratio):
        ours, inverse = ratio(a, b), ratio(b, a)
        scaled = ratio([unit * x for x in a], [unit * y for y in b])
        assert (ours.value, ours.low, ours.high) == pytest.approx((scaled.value, scaled.low, scaled.high), rel=1e-6)
        assert (ours.low, ours.high) == pytest.approx((1 / inverse.high, 1 / inverse.low), rel=1e-6)
        assert ours.low <= ours.value <= ours.high
        assert ours.value == pytest.approx(np.exp(np.mean(np.log(a)) - np.mean(np.log(b))), rel=1e-9)


def covered_ratios(runs, generator):
    """How often each ratio's 90 % interval holds the true ratio 3: (paired, unpaired)."""
    found = np.zeros(2)
    for _ in range(runs):
        shared = generator.normal(0, 1.0, size=4)
        a = np.exp(math.log(3) + shared + generator.normal(0, 0.2, size=4))
        b = np.exp(shared + generator.normal(0, 0.5, size=4))
        other = np.exp(generator.normal(0, 1.1, size=6))
        for i, e in enumerate(
            (paired_ratio(list(a), list(b), level=0.9), welch_ratio(list(a), list(other), level=0.9))
        ):
            found[i] += e.low <= 3 <= e.high
    return found


def test_ratios_cover_as_often_as_they_promise():
    runs = 600
    paired, unpaired = (covered_ratios(runs, np.random.default_rng(1)) - runs * 0.9) / math.sqrt(runs * 0.09)
    assert abs(paired) < 4
    assert abs(unpaired) < 4


@pytest.mark.slow
def test_ratios_cover_within_two_points_of_their_promise():
    runs = 10_000
    paired, unpaired = covered_ratios(runs, np.random.default_rng(2)) / runs
    assert abs(paired - 0.9) < 0.012  # 4 standard errors
    assert abs(unpaired - 0.9) < 0.02  # Satterthwaite's degrees of freedom are an approximation


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=3, max_size=10))
@settings(deadline=None, max_examples=50)
def test_the_line_is_numpys(points):
    x, y = (np.array(values) for values in zip(*points, strict=True))
    if np.std(x) < 1e-3 or np.std(y) < 1e-3:
        return
    fit = line_fit(list(x), list(y))
    slope, intercept = np.polyfit(x, y, 1)
    assert (fit.slope, fit.intercept) == pytest.approx((slope, intercept), rel=1e-6, abs=1e-6)
    assert fit.r_squared == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2, rel=1e-6, abs=1e-6)


def test_a_level_line_explains_nothing_and_groups_without_spread_say_so():
    assert math.isnan(line_fit([1.0, 2.0, 3.0], [5.0, 5.0, 5.0]).r_squared)
    equal = welch_difference([2.0] * 3, [1.0] * 4)
    assert (equal.value, equal.low, equal.high) == (1.0, 1.0, 1.0)
    assert "all values of a group are equal" in equal.note


@pytest.mark.parametrize(
    ("function", "a", "b", "message"),
    [
        (paired_ratio, [1.0, 0.0, 2.0], [1.0, 1.0, -3.0],
         r"a: expected positive values, got a\[1\] = 0.0; .*\n  b: expected positive values, got b\[2\] = -3.0"),
        (paired_ratio, [1.0, math.nan, 2.0], [1.0] * 3, r"a: expected finite values, got a\[1\] = nan"),
        (welch_ratio, [1.0, 2.0, -math.inf], [1.0] * 3, r"a: expected positive values, got a\[2\] = -inf"),
        (welch_difference, [1.0, 2.0], [1.0], r"a: expected at least 3 .*\n  b: expected at least 3"),
        (line_fit, [1.0, 2.0], [1.0], r"1 mistake\n  x, y: expected at least 3 points, .* got 2 and 1 values"),
        (line_fit, [1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "x: expected values that differ, all are 1.0; a line"),
        (line_fit, [1.0, 2.0, math.inf], [1.0, math.nan, 3.0],
         r"expected finite values, got x\[2\] = inf, y\[1\] = nan; leave these points out"),
    ],
)  # fmt: skip
def test_what_has_no_ratio_or_line_is_refused(function, a, b, message):
    with pytest.raises(ValueError, match=message):
        function(a, b)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_intervals_cover_as_often_as_they_promise(n):
    generator = np.random.default_rng(n)
    runs, level, truth = 4000, 0.9, 1.7
    samples = generator.normal(truth, 3.0, size=(runs, n))
    covered = sum(e.low <= truth <= e.high for e in (mean_interval(list(row), level=level) for row in samples))
    z = (covered - runs * level) / math.sqrt(runs * level * (1 - level))
    assert abs(z) < 4


def test_pairing_removes_what_the_seeds_share():
    generator = np.random.default_rng(0)
    shared = generator.normal(0, 10, size=5)
    a, b = shared + generator.normal(1.0, 0.1, size=5), shared + generator.normal(0, 0.1, size=5)
    paired = paired_difference(list(a), list(b), unit="%")
    assert 0.7 < paired.low < 1.0 < paired.high < 1.3
    assert mean_interval(list(a)).high - mean_interval(list(a)).low > 5
    assert paired.unit == "%"


def test_one_seed_has_a_value_and_no_interval():
    one = mean_interval([0.97], unit="%")
    assert (one.value, one.n, one.unit) == (0.97, 1, "%")
    assert all(map(math.isnan, (one.stderr, one.low, one.high)))
    assert one.note == "one seed has no interval: run at least 2, and 3 to compare"


def test_equal_values_say_so():
    assert "all values are equal" in mean_interval([1.0, 1.0, 1.0]).note
    assert mean_interval([1.0, 2.0]).note == ""


@pytest.mark.parametrize(
    ("values", "level", "message"),
    [
        ([], 0.95, r"values: expected at least 1 value\(s\), one per seed, got 0; run more seeds"),
        ([1.0, math.nan, math.inf], 0.95, r"values: expected finite values, got values\[1\] = nan, values\[2\] = inf"),
        ([1.0, 2.0], 95, "level: expected a probability between 0 and 1, got 95"),
        ([math.nan], 0, "interval over seeds: 2 mistakes\n  values: expected finite.*\n  level: expected"),
    ],
)
def test_wrong_values_are_refused(values, level, message):
    with pytest.raises(ValueError, match=message):
        mean_interval(values, level=level)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, 2.0], [1.0, 2.0], r"a: expected at least 3 value\(s\).*\n  b: expected at least 3"),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0], "a, b: expected one value each per seed, got 3 and 4; compare only"),
        ([1.0, 2.0, 3.0], [1.0, math.nan, 3.0], r"b: expected finite values, got b\[1\] = nan; report diverged"),
    ],
)
def test_unpaired_values_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        paired_difference(a, b)


def test_importing_results_and_recipe_loads_nothing_heavy():
    code = (
        "import sys, time; start = time.process_time(); import largebatch.results, largebatch.recipe; "
        "print(time.process_time() - start, sorted({'torch', 'numpy', 'scipy'} & sys.modules.keys()))"
    )
    seconds = math.inf
    for _ in range(10):  # processor time, as the machine may be busy
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        elapsed, heavy = run.stdout.split(maxsplit=1)
        assert heavy.strip() == "[]"
        seconds = min(seconds, float(elapsed))
        if seconds < 0.15:
            break
    assert seconds < 0.15
