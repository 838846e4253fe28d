"""The hyperbola fitted to samples-to-target: unbiased, with intervals that cover, and it says when it does not fit."""

import math

import numpy as np
import pytest

from largebatch import target
from oracles import steps_to_target
from target.published import mlperf, needs_mlperf

BATCHES = (64, 256, 1024, 4096, 16384)
WOBBLE = (1.05, 0.95, 1.05, 0.95, 1.05)
CURVE = {"least": 30.0, "critical": 2000.0}


def curve(batch):
    return CURVE["least"] * (1 + batch / CURVE["critical"])


def exact(batches=BATCHES, seeds=3):
    return {b: [curve(b)] * seeds for b in batches}


def draws(n, **options):
    """n fits of drawn runs."""
    for i in range(n):
        reached, missed = steps_to_target.draw(np.random.default_rng([7, i]), **CURVE, **options)
        yield target.fit_hyperbola(reached, missed=missed, period=options.get("period"))


def test_updates_and_samples_are_on_the_hyperbola():
    samples = target.samples_to_target(np.array(BATCHES), 30.0, 2000.0)
    updates = target.updates_to_target(np.array(BATCHES), 30.0, 2000.0)
    np.testing.assert_allclose((updates / (30.0 / 2000.0) - 1) * (samples / 30.0 - 1), 1.0)
    assert float(target.samples_to_target(2000, 30.0, 2000.0)) == 60.0


def test_points_on_a_hyperbola_give_it_back():
    fit = target.fit_hyperbola(exact(), period=1e-6)
    assert fit.fewest_samples.value == pytest.approx(30.0, rel=1e-3)
    assert fit.critical_batch_size.value == pytest.approx(2000.0, rel=1e-3)
    assert fit.fewest_updates.value == pytest.approx(30.0 / 2000.0, rel=1e-3)
    assert fit.fits
    assert fit.predict(32768).value == pytest.approx(curve(32768), rel=1e-3)


@pytest.mark.parametrize(("period", "longest"), [(0.5, math.inf), (6.0, math.inf), (6.0, 65.0)])
def test_without_scatter_the_fit_is_the_maximum_of_the_likelihood(period, longest):
    # Equal seeds, so that the weights are those of the likelihood; it differs by the batches' own scatter, found near 0.
    batches = (64, 256, 1024, 2048) if longest < 100 else BATCHES
    rng = np.random.default_rng(3)
    reached, missed = steps_to_target.draw(rng, batches, 60, **CURVE, sigma=0.1, period=period, longest=longest)
    assert any(missed.values()) == (longest < 100)
    least, critical, sigma = steps_to_target.maximum_likelihood(reached, missed, period)
    fit = target.fit_hyperbola(reached, missed=missed, period=period)
    assert abs(fit.fewest_samples.value - least) < 0.3 * fit.fewest_samples.stderr
    assert abs(fit.critical_batch_size.value - critical) < 0.3 * fit.critical_batch_size.stderr
    assert fit.seed_noise.value == pytest.approx(sigma, rel=0.05)


def test_coarse_evaluation_does_not_bias_the_fit():
    # Seen every 6 of 31 to 276, values are 3 too high on average: of E_min = 30 that is a tenth.
    errors, naive = [], []
    for i in range(25):
        rng = np.random.default_rng([9, i])
        reached, _ = steps_to_target.draw(rng, BATCHES, 10, **CURVE, sigma=0.1, period=6.0)
        errors.append(math.log(target.fit_hyperbola(reached, period=6.0).fewest_samples.value / 30.0))
        naive.append(math.log(target.fit_hyperbola(reached, period=1e-6).fewest_samples.value / 30.0))
    assert abs(np.mean(errors)) / (np.std(errors, ddof=1) / math.sqrt(len(errors))) < 4
    assert np.mean(naive) > 0.05


def test_runs_that_missed_the_target_count():
    batches = (64, 256, 1024, 2048)
    given, dropped = [], []
    for i in range(25):
        rng = np.random.default_rng([8, i])
        reached, missed = steps_to_target.draw(rng, batches, 10, **CURVE, sigma=0.15, period=1.0, longest=62.0)
        given.append(target.fit_hyperbola(reached, missed=missed, period=1.0).predict(2048).value / curve(2048))
        dropped.append(target.fit_hyperbola(reached, period=1.0).predict(2048).value / curve(2048))
    assert abs(np.mean(np.log(given))) / (np.std(np.log(given), ddof=1) / math.sqrt(25)) < 4
    assert np.mean(np.log(dropped)) < np.mean(np.log(given)) - 0.03


def test_seed_noise_is_not_biased_by_few_seeds():
    sigmas = np.array([f.seed_noise.value for f in draws(40, batches=BATCHES, seeds=2, sigma=0.1, period=0.5)])
    # With N − m = 5 degrees of freedom σ² is unbiased; by maximum likelihood it would be half of that.
    z = (np.mean(sigmas**2) - 0.01) / (np.std(sigmas**2, ddof=1) / math.sqrt(len(sigmas)))
    assert abs(z) < 4


CASES = {
    "seeds alone": {"batches": BATCHES, "seeds": 5, "sigma": 0.08, "tau": 0.0, "period": 1.0},
    "scatter alone": {"batches": BATCHES, "seeds": 20, "sigma": 0.02, "tau": 0.06, "period": 1.0},
    "both, coarse": {"batches": BATCHES, "seeds": 4, "sigma": 0.06, "tau": 0.05, "period": 5.0},
    "some missed": {
        "batches": (64, 256, 1024, 2048, 4096),
        "seeds": 8,
        "sigma": 0.1,
        "tau": 0.0,
        "period": 2.0,
        "longest": 95.0,
    },
}


def coverage(n, options):
    """How many of n intervals hold E_min, B_crit, and one more run at a batch beyond those measured."""
    hits = np.zeros(3, int)
    new = np.random.default_rng(99)
    for fit in draws(n, **options):
        run = curve(32768) * math.exp(options["tau"] * new.standard_normal() + options["sigma"] * new.standard_normal())
        estimates = (fit.fewest_samples, fit.critical_batch_size, fit.predict(32768))
        hits += [e.low <= truth <= e.high for e, truth in zip(estimates, (30.0, 2000.0, run), strict=True)]
    return hits


@pytest.mark.parametrize("case", CASES)
def test_intervals_cover(case):
    hits = coverage(25, CASES[case])
    assert (np.abs(hits - 23.75) / math.sqrt(25 * 0.95 * 0.05) < 4).all(), hits


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_intervals_cover_what_they_promise(case):
    hits = coverage(1000, CASES[case])
    assert ((hits >= 930) & (hits <= 970)).all(), hits


def test_without_lack_of_fit_its_p_is_uniform():
    p = np.array([f.lack_of_fit_p for f in draws(40, batches=BATCHES, seeds=5, sigma=0.08, period=1.0)])
    low = (p < 0.1).sum()
    assert abs(low - 4) / math.sqrt(40 * 0.1 * 0.9) < 4
    assert abs(p.mean() - 0.5) / math.sqrt(1 / 12 / 40) < 4


def test_a_curve_that_is_flat_has_no_critical_batch_but_a_lower_end():
    fit = target.fit_hyperbola({b: [30.0, 31.0, 29.0] for b in BATCHES}, period=0.1)
    assert fit.critical_batch_size.high == math.inf
    assert fit.critical_batch_size.low > 16384
    fit = target.fit_hyperbola({b: [x - 0.001 * b**0.5 for x in (30.0, 31.0, 29.0)] for b in BATCHES}, period=0.1)
    assert fit.critical_batch_size.value == math.inf
    assert fit.fewest_updates.value == 0


def test_samples_in_proportion_to_the_batch_leave_no_fewest_samples():
    fit = target.fit_hyperbola({b: [b * 0.97, b * 1.03, b] for b in BATCHES}, period=0.01)
    assert fit.critical_batch_size.low == 0
    assert fit.fewest_updates.value == pytest.approx(1.0, rel=0.02)


def test_two_batches_leave_no_interval_and_one_run_each_no_seed_noise():
    two = target.fit_hyperbola(exact((64, 1024)), period=1e-3)
    assert two.fewest_samples.value == pytest.approx(30.0, rel=1e-3)
    assert math.isnan(two.critical_batch_size.low)
    assert two.critical_batch_size.note == "two batches leave no interval; measure a third"
    assert two.reason == "two batches determine the curve; a third would show whether it fits"
    one = target.fit_hyperbola({b: [curve(b) * wobble] for b, wobble in zip(BATCHES, WOBBLE, strict=True)}, period=1e-3)
    assert math.isnan(one.seed_noise.value)
    assert one.critical_batch_size.low < 2000 < one.critical_batch_size.high


def test_a_batch_far_off_is_named_and_the_curve_refused():
    cells = {b: [x, x * 1.02, x * 0.98] for b, x in exact().items() for x in [x[0]]}
    cells[256] = [3 * x for x in cells[256]]
    fit = target.fit_hyperbola(cells, period=0.01)
    assert not fit.fits
    assert "most at 256, which needed 102 samples" in fit.reason
    assert "DOES NOT FIT" in fit.text()


def test_recipes_tuned_apart_are_a_reservation_only():
    means = {b: curve(b) * wobble for b, wobble in zip(BATCHES, WOBBLE, strict=True)}
    fit = target.fit_hyperbola({b: [mean * s for s in (0.99, 1.0, 1.01)] for b, mean in means.items()}, period=0.01)
    assert fit.fits
    assert fit.reason.startswith("the batches scatter by")
    assert fit.lack_of_fit_p < 0.01


def test_a_batch_that_never_reached_the_target_contradicts_the_curve_or_does_not():
    cells = {b: [x * 0.99, x, x * 1.01] for b in BATCHES for x in [curve(b)]}
    near = target.fit_hyperbola(cells, missed={32768: [300.0] * 3}, period=0.01)
    far = target.fit_hyperbola(cells, missed={32768: [5000.0] * 3}, period=0.01)
    assert near.fits
    assert not far.fits
    assert "no run at batch 32768 reached the target in 5000 samples" in far.reason
    assert near.critical_batch_size == far.critical_batch_size


def test_the_evaluation_period_is_read_off_the_values():
    reached, _ = steps_to_target.draw(np.random.default_rng(0), BATCHES, 20, **CURVE, sigma=0.1, period=2.5)
    fit = target.fit_hyperbola(reached)
    assert (fit.period, fit.period_source) == (2.5, "inferred")
    same = {b: [round(curve(b))] * 4 for b in BATCHES}
    assert target.fit_hyperbola(same).period == 0
    assert target.fit_hyperbola(same, period=1.0).period_source == "given"


def test_a_fit_comes_back_from_json_and_predicts_the_same():
    reached, _ = steps_to_target.draw(np.random.default_rng(0), BATCHES, 5, **CURVE, sigma=0.1, period=1.0)
    fit = target.fit_hyperbola(reached, unit="epochs", samples_per_unit=50_000)
    back = target.HyperbolaFit.from_json(fit.to_json())
    assert back.predict(8192) == fit.predict(8192)
    samples = fit.interval(np.array([8192.0]))[0]
    assert float(samples[0]) == pytest.approx(50_000 * fit.predict(8192).value)
    assert fit.fewest_updates.value == pytest.approx(50_000 * fit.fewest_samples.value / fit.critical_batch_size.value)


def test_more_seeds_narrow_a_prediction_down_to_the_scatter_of_batches():
    fit = next(draws(1, batches=BATCHES, seeds=5, sigma=0.1, period=1.0))
    widths = [e.high - e.low for e in (fit.predict(8192, seeds=n) for n in (1, 10, math.inf))]
    assert widths[0] > widths[1] > widths[2] > 0


def test_bad_runs_are_told_together():
    with pytest.raises(ValueError, match="fit of samples to target: 6 mistakes") as error:
        target.fit_hyperbola(
            {-1: [3.0], 64: [0.0, math.inf]}, missed={0: [1.0]}, period=0.0, samples_per_unit=0.0, level=2.0
        )
    for line in (
        "reached: expected batch sizes above 0, got -1; give the global batch in samples",
        "reached[64]: expected values above 0 and finite, got 0.0, inf; a run without the target belongs to `missed`",
        "missed: expected batch sizes above 0, got 0",
        "period: expected the samples between evaluations, above 0 and finite, got 0.0; or None to read it off the values",
        "samples_per_unit: expected the samples of one unit, above 0 and finite, got 0.0",
        "level: expected a probability between 0 and 1, got 2.0",
    ):
        assert line in str(error.value)
    with pytest.raises(
        ValueError, match="expected runs that reached the target at 2 batches or more, got 1; measure another"
    ):
        target.fit_hyperbola({64: [1.0, 2.0]}, missed={128: [5.0]})


@needs_mlperf
def test_resnet_in_mlperf():
    fit = target.fit_hyperbola(mlperf()["resnet"], unit="epochs", samples_per_unit=1_281_167)
    assert fit.period == 1
    assert fit.fewest_samples.value == pytest.approx(34, abs=1)
    assert fit.critical_batch_size.value == pytest.approx(46_000, rel=0.03)
    # From the raw logs of another year: 33.96·(1 + B/45 634).
    assert fit.fewest_samples.low < 33.96 < fit.fewest_samples.high
    assert fit.critical_batch_size.low < 45_634 < fit.critical_batch_size.high
    assert fit.fits


@needs_mlperf
def test_cosmoflow_changes_its_recipe_and_does_not_fit():
    fit = target.fit_hyperbola(mlperf()["cosmoflow"], unit="epochs")
    assert not fit.fits
    assert "most at 32," in fit.reason
    assert "recipe that changes between batches" in fit.reason
    assert all(
        target.fit_hyperbola(runs).fits
        for name, runs in mlperf().items()
        if name not in ("cosmoflow", "bert", "unet3d")
    )


@needs_mlperf
def test_the_largest_batch_of_each_workload_is_predicted_from_the_others():
    errors, naive, inside = [], [], []
    for name, runs in mlperf().items():
        *rest, largest = sorted(runs)
        fit = target.fit_hyperbola({b: runs[b] for b in rest})
        needed = float(np.median(runs[largest])) - fit.period / 2
        guess = fit.predict(largest, seeds=len(runs[largest]))
        errors.append(abs(guess.value / needed - 1))
        naive.append(abs(np.median(runs[rest[-1]]) / np.median(runs[largest]) - 1))
        if name != "dlrm":  # two batches are left of its three: no interval
            inside.append(guess.low <= needed <= guess.high)
    assert np.median(errors) < 0.05 < np.median(naive)
    assert sum(inside) == len(inside) == 7
