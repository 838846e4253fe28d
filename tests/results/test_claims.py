"""Claims over seeds: against scipy, closed forms, and their own promise in simulations."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from largebatch.results import (
    fieller_share,
    holm,
    non_inferiority,
    paired_difference,
    paired_p_value,
    seeds_to_settle,
)

PAIRS = st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=3, max_size=10).filter(
    lambda pairs: np.std([a - b for a, b in pairs]) > 1e-3
)


@given(PAIRS)
@settings(deadline=None, max_examples=50)
def test_the_p_value_is_scipys(pairs):
    from scipy import stats

    a, b = map(list, zip(*pairs, strict=True))
    assert paired_p_value(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-7, abs=1e-12)


@given(PAIRS, st.floats(0.1, 10))
@settings(deadline=None, max_examples=50)
def test_non_inferiority_is_the_one_sided_test_and_agrees_with_its_interval(pairs, margin):
    from scipy import stats

    a, b = map(list, zip(*pairs, strict=True))
    found = non_inferiority(a, b, margin=margin)
    shifted = [x + margin for x in a]
    assert found.p == pytest.approx(stats.ttest_rel(shifted, b, alternative="greater").pvalue, rel=1e-7, abs=1e-12)
    assert found.holds == (found.difference.low > -margin)
    if abs(found.p - 0.025) > 1e-9:
        assert found.holds == (found.p < 0.025)


def test_equal_differences_show_nothing_about_the_next_seed():
    a, b = [1.0, 2.0, 3.0], [0.0, 1.0, 2.0]
    assert math.isnan(paired_p_value(a, b))
    found = non_inferiority(a, b, margin=0.5)
    assert math.isnan(found.p)
    assert not found.holds


def fieller_by_definition(part, whole, level):
    """Ends of {ρ: mean(part − ρ·whole) is not told from 0}, on a grid around the share."""
    from scipy import stats

    quantile = stats.t.ppf((1 + level) / 2, len(part) - 1)

    def statistic(rho):
        rest = np.asarray(part) - rho * np.asarray(whole)
        return abs(rest.mean()) / (rest.std(ddof=1) / math.sqrt(len(rest))) - quantile

    share, step = np.mean(part) / np.mean(whole), 1e-4
    low = high = share
    while statistic(low) < 0:
        low -= step
    while statistic(high) < 0:
        high += step
    return low, high


@pytest.mark.parametrize("seed", range(5))
def test_fiellers_interval_is_what_its_definition_says(seed):
    generator = np.random.default_rng(seed)
    whole = generator.normal(4, 0.4, 5)
    part = 0.6 * whole + generator.normal(0, 0.3, 5)
    found = fieller_share(list(part), list(whole))
    low, high = fieller_by_definition(part, whole, 0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=3e-4)
    assert found.value == pytest.approx(part.mean() / whole.mean())


def test_there_is_no_share_of_a_gap_that_is_not_there():
    found = fieller_share([0.1, -0.2, 0.3, 0.0], [0.5, -0.6, 0.4, -0.1])
    assert math.isnan(found.value)
    assert found.note.startswith("no gap")


def test_fieller_has_a_share_exactly_where_the_gap_is_told_from_0():
    generator = np.random.default_rng(0)
    for _ in range(200):
        whole = list(generator.normal(1, 1, 4))
        part = list(generator.normal(0.5, 1, 4))
        gap = paired_difference(whole, [0.0] * 4)
        assert math.isnan(fieller_share(part, whole).value) == (gap.low <= 0 <= gap.high)


def test_holm_is_its_published_example_and_keeps_the_order():
    """Five hypotheses, worked by hand: 5·.005, 4·.011, 3·.02, 2·.04, 1·.13, each at least the one before."""
    p = [0.04, 0.005, 0.13, 0.011, 0.02]
    assert holm(p) == pytest.approx([0.08, 0.025, 0.13, 0.044, 0.06])
    assert holm([0.03, 0.03]) == pytest.approx([0.06, 0.06])
    adjusted = holm([0.01, math.nan, 0.9])
    assert adjusted[0] == pytest.approx(0.03)
    assert math.isnan(adjusted[1])
    assert adjusted[2] == 1.0 or adjusted[2] == pytest.approx(1.0)
    assert holm([]) == []


def test_holm_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match=r"p_values\[1\] = 1.5"):
        holm([0.1, 1.5])


@pytest.mark.parametrize("effect", [0.7, 1.0, 2.5])
def test_so_many_seeds_settle_it_four_times_in_five(effect):
    """Draw studies of the size that was promised, and one seed fewer: power crosses 0.8 there."""
    observed = [effect - 1, effect, effect + 1]  # mean `effect`, standard deviation 1
    n = seeds_to_settle(observed)
    generator = np.random.default_rng(1)
    draws = 4000

    def power(seeds):
        from scipy import stats

        x = generator.normal(effect, 1, (draws, seeds))
        half = stats.t.ppf(0.975, seeds - 1) * x.std(axis=1, ddof=1) / math.sqrt(seeds)
        return (x.mean(axis=1) - half > 0).mean()

    error = 4 * math.sqrt(0.16 / draws)
    assert power(n) > 0.8 - error
    if n > 3:
        assert power(n - 1) < 0.8 + error


def test_seeds_to_settle_has_ends():
    assert seeds_to_settle([5.0, 5.1, 4.9]) == 3
    assert seeds_to_settle([1e-4, 1.0, -1.0]) is None
    assert seeds_to_settle([1.0, 1.0, 1.0]) is None
    assert seeds_to_settle([0.9, 1.0, 1.1], threshold=-1.0) == 3
    with pytest.raises(ValueError, match="at least 3, one per seed, got 2"):
        seeds_to_settle([1.0, 2.0])
    with pytest.raises(ValueError, match="power: expected a probability"):
        seeds_to_settle([1.0, 2.0, 4.0], power=1.0)


def test_a_margin_is_said_beforehand():
    with pytest.raises(ValueError, match="margin: expected a number above 0, got 0"):
        non_inferiority([1.0, 2.0, 3.0], [1.0, 2.0, 2.0], margin=0)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_cover_in_93_to_97_per_cent_of_studies(seeds):
    """1,000 studies: a paired difference whose two sides share half of their variance."""
    generator = np.random.default_rng(seeds)
    shared = generator.normal(0, 1, (1000, seeds))
    a = 1.0 + shared + generator.normal(0, 1, shared.shape)
    b = shared + generator.normal(0, 1, shared.shape)
    held = [f.low <= 1.0 <= f.high for f in (paired_difference(list(x), list(y)) for x, y in zip(a, b, strict=True))]
    assert 0.93 <= np.mean(held) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_fieller_covers_too(seeds):
    generator = np.random.default_rng(seeds)
    held = []
    for _ in range(1000):
        whole = generator.normal(4, 0.5, seeds)
        part = 0.6 * whole + generator.normal(0, 0.5, seeds)
        found = fieller_share(list(part), list(whole))
        held.append(math.isnan(found.value) or found.low <= 0.6 <= found.high)
    assert 0.93 <= np.mean(held) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_identical_cells_are_called_different_in_at_most_6_5_per_cent(seeds):
    """Also as one of five primary questions: then any of the five, by Holm."""
    generator = np.random.default_rng(10 + seeds)
    alone, family = 0, 0
    for _ in range(1000):
        p = [paired_p_value(*map(list, generator.normal(0, 1, (2, seeds)))) for _ in range(5)]
        alone += p[0] < 0.05
        family += min(holm(p)) < 0.05
    assert alone <= 65
    assert family <= 65
