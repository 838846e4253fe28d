"""The time of an update: the slowest worker, overlap, efficiency, and the numbers fitted from measured times."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from largebatch import plan

LINK = plan.Link(1e9, 1e-4)


def test_the_expected_maximum_is_its_integral():
    for n in (1, 2, 3, 10, 256, 99_999, 1_000_000):
        exact = quad(
            lambda x, n=n: x * n * norm.pdf(x) * norm.cdf(x) ** (n - 1), -8, 12, points=[0, 2, 4, 6], limit=400
        )[0]
        assert float(plan.expected_maximum(n)) == pytest.approx(exact, abs=3e-5)
    assert float(plan.expected_maximum(2)) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-5)


def test_jitter_is_the_mean_of_the_slowest_of_simulated_workers():
    step = plan.StepTime(1e-3, 0.01, jitter=0.1)
    draws = np.random.default_rng(0).normal(0.042, 0.0042, (20_000, 16)).max(axis=1)
    z = (float(step.seconds(16, 32)) - draws.mean()) / (draws.std() / math.sqrt(len(draws)))
    assert abs(z) < 4


def test_exponential_delays_are_the_mean_of_the_slowest_of_simulated_workers():
    step = plan.StepTime(1e-3, 0.01, delay_seconds=0.005)
    draws = np.random.default_rng(1).exponential(0.005, (20_000, 10)).max(axis=1) + 0.042 - 0.005
    z = (float(step.seconds(10, 32)) - draws.mean()) / (draws.std() / math.sqrt(len(draws)))
    assert abs(z) < 4


def test_the_exponent_runs_from_nothing_hidden_to_the_longer_of_the_two():
    compute, network = 0.032, float(plan.Network(LINK).seconds(8, 1e7))

    def at(gamma):
        step = plan.StepTime(1e-3, network=plan.Network(LINK), gradient_bytes=1e7, overlap_exponent=gamma)
        return float(step.seconds(8, 32))

    assert at(1.0) == pytest.approx(compute + network)
    assert at(3.0) == pytest.approx((compute**3 + network**3) ** (1 / 3))
    assert max(compute, network) < at(10.0) < at(3.0) < at(1.0)


def test_a_share_of_the_compute_hides_communication_up_to_its_length():
    network = float(plan.Network(LINK).seconds(8, 1e7))

    def at(share, n):
        step = plan.StepTime(1e-3, network=plan.Network(LINK), gradient_bytes=1e7, overlap_share=share)
        return float(step.seconds(8, n))

    assert at(0.0, 32) == pytest.approx(0.032 + network)
    assert at(0.25, 32) == pytest.approx(0.032 + network - 0.008)
    assert at(0.66, 320) == pytest.approx(0.32)


def test_efficiency_is_one_worker_over_many_at_the_same_local_batch():
    step = plan.StepTime(1e-3, 0.002, plan.Network(LINK), 1e7)
    assert float(step.efficiency(1, 32)) == 1
    assert float(step.efficiency(16, 32)) == pytest.approx(0.034 / float(step.seconds(16, 32)))


def test_a_step_time_comes_back_from_json():
    step = plan.StepTime(1e-3, network=plan.Network(LINK), gradient_bytes=1e7, overlap_share=0.5)
    assert plan.StepTime.from_json(step.to_json()) == step


def test_mistakes_of_a_step_time_are_told_together():
    with pytest.raises(ValueError, match="step time: 11 mistakes") as error:
        plan.StepTime(0.0, -1.0, plan.Network(LINK), 0.0, 11.0, 2.0, -0.2, -0.1, math.inf, math.nan)
    for line in (
        "seconds_per_sample: expected a time, above 0 and finite, got 0.0; measure it on one worker",
        "fixed_seconds: expected a time, from 0 on and finite, got -1.0; 0 is none",
        "gradient_bytes: expected the bytes that are all-reduced, above 0 and finite, got 0.0; 4 for every parameter",
        "overlap_exponent: expected 1 (nothing hides) to 10, got 11.0",
        "overlap_share: expected a share from 0 to 1, got 2.0",
        "joining_seconds: expected a time, from 0 on and finite, got -0.2; 0 is none",
        "jitter: expected a share, from 0 on and finite, got -0.1",
        "delay_seconds: expected a time, from 0 on and finite, got inf",
        "relative_error: expected a share, from 0 on and finite, got nan",
    ):
        assert line in str(error.value)


def test_two_models_of_one_thing_are_refused():
    with pytest.raises(ValueError, match="step time: 2 mistakes") as error:
        plan.StepTime(1e-3, overlap_exponent=2.0, overlap_share=0.5, jitter=0.1, delay_seconds=0.1)
    assert "overlap_share: expected this or overlap_exponent, got both; give one" in str(error.value)
    assert "jitter: expected this or delay_seconds, got both; give one" in str(error.value)


def noisy(seconds, seed, share=0.02):
    return (np.asarray(seconds) * np.exp(share * np.random.default_rng(seed).standard_normal(len(seconds)))).tolist()


def covered(fits, truths):
    """How often the intervals hold the truth, over all numbers."""
    hits = [e.low <= truth <= e.high for estimates in fits for e, truth in zip(estimates, truths, strict=True)]
    return sum(hits), len(hits)


def assert_95_percent(hits, n):
    assert abs(hits - 0.95 * n) / math.sqrt(n * 0.95 * 0.05) < 4


def test_compute_times_give_back_their_numbers_and_the_intervals_cover():
    sizes = [8, 32, 128] * 4
    true = [0.002 + 1e-4 * n for n in sizes]
    fits = [plan.fit_compute(sizes, noisy(true, seed)) for seed in range(100)]
    assert_95_percent(*covered([(f.fixed_seconds, f.seconds_per_sample) for f in fits], (0.002, 1e-4)))
    exact = plan.fit_compute(sizes, true)
    assert exact.fixed_seconds.value == pytest.approx(0.002, rel=1e-6)
    assert np.mean([f.residual for f in fits]) == pytest.approx(0.02, rel=0.05)


def test_all_reduce_times_give_back_latency_and_bandwidth_and_the_intervals_cover():
    workers, sizes = [2] * 5 + [4] * 5, [1e3, 1e5, 1e6, 1e7, 1e8] * 2
    true = [float(plan.Network(plan.Link(1e9, 5e-5)).seconds(w, n)) for w, n in zip(workers, sizes, strict=True)]
    fits = [plan.fit_network(workers, sizes, noisy(true, seed)) for seed in range(100)]
    assert_95_percent(*covered([(f.latency_seconds, f.seconds_per_byte) for f in fits], (5e-5, 1e-9)))


def test_steps_give_back_the_overlap_and_its_interval_covers():
    compute, network = np.array([0.1, 0.2, 0.1, 0.05, 0.1]), np.array([0.05, 0.1, 0.1, 0.1, 0.12])
    true = (compute**3 + network**3) ** (1 / 3)
    fits = [plan.fit_overlap(compute.tolist(), network.tolist(), noisy(true, seed)) for seed in range(100)]
    assert_95_percent(*covered([(f.exponent,) for f in fits], (3.0,)))


def test_steps_longer_than_their_parts_leave_what_joining_takes_and_its_interval_covers():
    compute, network = np.array([0.1, 0.2, 0.4, 0.8]), np.full(4, 0.05)
    true = compute + network + 0.04
    fits = [plan.fit_overlap(compute.tolist(), network.tolist(), noisy(true, seed)) for seed in range(100)]
    assert_95_percent(*covered([(f.joining_seconds,) for f in fits], (0.04,)))
    exact = plan.fit_overlap(compute.tolist(), network.tolist(), true.tolist())
    assert exact.joining_seconds.value == pytest.approx(0.04, rel=1e-6)
    assert (exact.exponent.value, exact.exponent.note) == (1.0, "steps are longer than their parts")
    hidden = plan.fit_overlap(compute.tolist(), network.tolist(), (compute + 0.01).tolist())
    assert (hidden.joining_seconds.value, hidden.joining_seconds.note) == (0.0, "a part hides")
    assert hidden.exponent.value > 1.2
    whole = plan.fit_overlap([1.0, 2.0, 4.0], [1e-5] * 3, [1.0, 2.0, 4.0])  # the network hides, all of it
    assert whole.joining_seconds.value == 0.0
    assert whole.exponent.value > 1.2
    step = plan.StepTime(1e-3, joining_seconds=0.004)
    assert step.seconds([1, 2, 64], 100).tolist() == pytest.approx([0.1, 0.104, 0.104])


def test_a_number_that_is_not_there_stays_at_its_bound():
    fit = plan.fit_compute([8, 32, 128, 512], [1.1e-3, 3.0e-3, 1.3e-2, 5.2e-2])  # a negative intercept fits best
    assert 0 <= fit.fixed_seconds.low <= fit.fixed_seconds.value < 3e-4
    assert plan.fit_overlap([0.1, 0.2, 0.1], [0.1, 0.2, 0.2], [0.22, 0.41, 0.31]).exponent.value == pytest.approx(
        1.0, abs=1e-6
    )


def test_as_many_times_as_numbers_leave_no_interval():
    fit = plan.fit_compute([8, 32], [0.01, 0.02])
    assert math.isnan(fit.fixed_seconds.low)
    assert math.isnan(fit.residual)
    assert fit.fixed_seconds.note == "as many times as numbers leave no interval; measure more"


LOG = [{"kind": "update", "samples": 256}] + [
    {"kind": "epoch", "seconds": 5 + 10 * (k + 1) + d, "updates": 100 * (k + 1)}
    for k, d in enumerate([0, 0.5, 0.2, 0.4])
]


def test_a_log_gives_the_time_of_an_update_without_the_first_epoch():
    estimate = plan.seconds_per_update(LOG)
    assert estimate.value == pytest.approx(0.102)
    assert estimate.n == 3
    assert estimate.low < 0.102 < estimate.high
    two = plan.seconds_per_update(LOG[:3])
    assert two.value == pytest.approx(0.105)
    assert two.note == "one epoch has no interval"


def test_a_log_without_timing_is_refused():
    with pytest.raises(
        ValueError, match=r'log: expected two rows or more with "seconds" and "updates", got 0 among 1; give a run'
    ):
        plan.seconds_per_update(LOG[:1])
    with pytest.raises(ValueError, match="log: expected seconds and updates that grow row by row"):
        plan.seconds_per_update([LOG[2], LOG[1]])


def test_bad_measurements_are_told_together():
    with pytest.raises(ValueError, match="fit of the compute time: 3 mistakes") as error:
        plan.fit_compute([8, 8, 8], [0.1, 0.0])
    assert "local_batch_sizes: expected one for each of 2 times, got 3; pair them" in str(error.value)
    assert "seconds: expected numbers above 0 and finite, got 0.0; measure those again" in str(error.value)
    assert "local_batch_sizes: expected two different sizes or more, got 1; measure another" in str(error.value)
    with pytest.raises(ValueError, match="fit of the network: 2 mistakes") as error:
        plan.fit_network([1], [1e3, 1e6], [0.1, 0.2])
    assert "workers: expected one for each of 2 times, got 1; give W of each" in str(error.value)
    assert "workers: expected 2 or more, got 1; one worker sends nothing" in str(error.value)
    with pytest.raises(ValueError, match="fit of the overlap: 2 mistakes") as error:
        plan.fit_overlap([], [0.1], [])
    assert "seconds: expected measured times, got none; measure some" in str(error.value)
    assert "network_seconds: expected one for each of 0 times, got 1" in str(error.value)
