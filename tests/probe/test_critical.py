"""Judging the critical batch: what each route says of given measurements, and whether they agree."""

import math

import numpy as np
import pytest

from largebatch import probe
from largebatch.noise import NoiseScale
from largebatch.probe import CriticalBatch, Route
from largebatch.results import decode, encode

SIZES = (64, 256, 1024, 4096)


def branches(critical, *, start=2.0, samples=8192, noise=0.02, seeds=3, flat=()):
    """Branches whose loss falls as exp(−samples/E), E ∝ 1 + B/B_crit; those of `flat` do not move."""
    rng = np.random.default_rng(0)
    places = samples * np.arange(1, 9) / 8

    def path(batch):
        pace = 0.0 if batch in flat else np.exp(noise * rng.standard_normal()) / (1 + batch / critical)
        return tuple(zip(places.tolist(), (start * np.exp(-pace * places / samples)).tolist(), strict=True))

    return {"start_loss": start, "paths": {b: [path(b) for _ in range(seeds)] for b in SIZES}, "cost_samples": 1e5}


def test_branches_give_back_the_batch_at_which_half_is_lost():
    route = probe.by_branches(**branches(700.0))
    assert route.low <= 700 <= route.high
    assert route.high / route.low < 1.5
    assert route.cost_samples == 1e5


def test_merrills_rule_stands_beside_it():
    ends = {64: [1.50], 128: [1.505, 1.503], 256: [1.512], 512: [1.45]}
    assert probe.largest_recovered(ends, 0.01) == 128  # 256 is 0.012 above 64; what 512 does no longer counts
    assert probe.largest_recovered(ends, 0.02) == 512
    assert "within 0.01 of every smaller batch's loss: 64" in probe.by_branches(**branches(700.0)).note


def test_a_branch_that_does_not_descend_is_censored_and_too_few_give_no_number():
    one = probe.by_branches(**branches(700.0, flat=(4096,)))
    assert one.is_known
    none = probe.by_branches(**branches(700.0, flat=(256, 1024, 4096)))
    assert not none.is_known
    assert none.note.startswith("not enough data yet: 1 batches got anywhere; 3 give an interval")
    assert not probe.by_branches(**branches(700.0, flat=SIZES)).is_known


def swept(critical, seeds=4):
    rng = np.random.default_rng(1)
    return {b: (3e4 * (1 + b / critical) * np.exp(0.03 * rng.standard_normal(seeds))).tolist() for b in SIZES}


def test_a_sweep_is_the_hyperbola_and_says_where_it_extrapolates():
    periods = dict.fromkeys(SIZES, 10.0)
    route = probe.by_sweep(swept(900.0), {}, periods, cost_samples=1e6)
    assert route.low <= 900 <= route.high
    assert route.note == ""
    far = probe.by_sweep(swept(9000.0), {}, periods, cost_samples=1e6)
    assert "beyond the largest batch that got there, 4096: try larger ones" in far.note
    near = probe.by_sweep(swept(20.0), {}, periods, cost_samples=1e6)
    assert "below the smallest batch, 64: try smaller ones" in near.note
    odd = {64: [1e4, 1.01e4], 256: [9e4, 9.1e4], 1024: [2e4, 2.02e4], 4096: [9e4, 9.1e4]}
    assert "does not fit: the batches lie off the curve" in probe.by_sweep(odd, {}, periods, cost_samples=1e6).note


def route(name, value, low, high):
    return Route(name, value, low, high, 1e3)


def test_the_dearest_route_is_believed_and_a_misleading_noise_scale_is_told():
    found = probe.critical_batch_size([
        route("noise scale", 8000, 6000, 11_000), route("branches", 900, 700, 1200), route("sweep", 1000, 800, 1300),
    ])  # fmt: skip
    assert found.believed.route == "sweep"
    assert [(p.agree, round(p.ratio, 2)) for p in found.agreements] == [(False, 8.89), (False, 8.0), (True, 0.9)]
    assert found.warnings == ("the noise scale misleads here: it is 8 times what the sweep found",)
    text = found.text()
    assert "noise scale ÷ sweep: 8; they do NOT agree" in text
    assert (
        "a batch of 1e+03 [800, 1.3e+03] needs twice the fewest samples and twice the fewest updates (by sweep)" in text
    )


def test_the_noise_scale_alone_is_doubted_and_no_number_is_a_dash():
    nothing = NoiseScale().estimate()
    found = probe.critical_batch_size([probe.by_noise_scale(nothing)], nothing)
    assert "0.05 to 8 times the critical batch in McCandlish et al. 2018, table 1" in found.warnings[0]
    assert found.believed is None
    assert "not enough data yet: 0 looks" in found.text()
    assert math.isnan(found.to_json()["noise_scale"])


def test_json_has_the_agreed_names_and_comes_back():
    noise = NoiseScale(every=1)
    import torch

    from largebatch.core import Partials

    for i in range(40):
        norm = 3.0 + 0.1 * (i % 5)
        noise.add(Partials(torch.tensor([4.0, 4.0]), torch.full((2,), norm), torch.tensor(norm - 1)), 8 * i)
    known = noise.estimate()
    found = probe.critical_batch_size([probe.by_noise_scale(known), route("sweep", 9, 8, 10)], known)
    data = found.to_json()
    assert {"noise_scale", "low", "high", "gradient_squared_norm", "noise_trace", "critical"} <= set(data)
    assert {"route", "batch_size", "low", "high", "cost_samples"} <= set(data["critical"][0])
    assert data["noise_scale"] == known.noise_scale.value
    assert CriticalBatch.from_json(decode(encode(data))) == found
    assert CriticalBatch.from_json(probe.critical_batch_size([route("sweep", 9, 8, 10)]).to_json()).noise is None


def test_routes_are_each_given_once():
    with pytest.raises(
        ValueError, match="routes: expected one or more, each of another kind, got none; give each once"
    ):
        probe.critical_batch_size([])
    with pytest.raises(ValueError, match="got sweep, sweep; give each once"):
        probe.critical_batch_size([route("sweep", 9, 8, 10)] * 2)
