"""The registry of sharpness: what holds for every kind in it."""

import copy
import inspect
import math
import re
import runpy
from pathlib import Path

import pytest
import torch
from sharpness_problems import batch_norm_network, bowl, classes_data, relu_network, rescale, risk
from torch import nn
from torch.nn import functional as F

from largebatch.core import Risk, cross_entropy, world_from_environment
from largebatch.sharpness._cost import expected_cost
from largebatch.sharpness._registry import NOTHING, SHARPNESS, sharpness, sharpness_all
from ranks import run_ranks

KINDS = list(SHARPNESS)
UNCHANGED = [
    ("asam", {}), ("adaptive_linf", {}), ("adaptive_linf", {"normalise_logits": True}), ("average", {"adaptive": True}),
]  # fmt: skip


@pytest.mark.parametrize("mode", ["running", "batch", "reestimated"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_measurement_leaves_no_trace_and_repeats(kind, mode):
    model = batch_norm_network()
    model[3].eval()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    state = copy.deepcopy(model.state_dict())
    training = [module.training for module in model.modules()]
    generator_state = torch.get_rng_state()
    problem = risk(model, batch_norm=mode)
    found = sharpness(problem, kind, seed=3)
    assert torch.equal(generator_state, torch.get_rng_state())
    assert [module.training for module in model.modules()] == training
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert math.isfinite(found.value)
    assert found.details["loss"] > 0
    assert (found.name, found.batch_norm, found.samples, found.seed, found.dtype) == (kind, mode, 10, 3, "float64")
    assert found.passes == pytest.approx(problem.passes)
    assert found.seconds > 0
    assert sharpness(problem, kind, seed=3).value == found.value


@pytest.mark.parametrize("kind", KINDS)
def test_without_batch_norm_there_is_no_mode(kind):
    assert sharpness(risk(), kind).batch_norm == "none"


@pytest.mark.parametrize("factor", [7.3, 0.2])
@pytest.mark.parametrize(("kind", "options"), [*((kind, {}) for kind in KINDS), *UNCHANGED])
def test_rescaling_changes_what_it_is_said_to_change(kind, options, factor):
    model = relu_network()
    before = sharpness(risk(model), kind, **options)
    rescale(model, factor)
    after = sharpness(risk(model), kind, **options)
    assert after.details["loss"] == pytest.approx(before.details["loss"], rel=1e-12)
    if (kind, options) in UNCHANGED:
        assert after.unchanged_by.startswith("every rescaling")
        assert after.value == pytest.approx(before.value, rel=1e-5)
    else:
        assert after.unchanged_by == NOTHING
        assert after.value != pytest.approx(before.value, rel=0.05)


@pytest.mark.parametrize("batch_size", [4, 3])  # 4 + 4 + 2, 3 + 3 + 3 + 1
@pytest.mark.parametrize("kind", KINDS)
def test_unequal_batches_change_nothing(kind, batch_size):
    full = sharpness(risk(batch_size=10), kind)
    parts = sharpness(risk(batch_size=batch_size), kind)
    assert parts.value == pytest.approx(full.value, rel=tolerance(kind), abs=1e-12)


def tolerance(kind):
    """A search by slopes repeats to rounding; 100·(max f − f)/(1 + f) and Lanczos lose a few digits of it."""
    return 1e-6 if kind in ("lambda_max", "trace") else 1e-10


def on_a_rank():
    with world_from_environment(torch.device("cpu")) as world:
        return [found.value for found in sharpness_all(risk(batch_size=3, world=world))]


def test_two_unequal_ranks_change_nothing():
    full = sharpness_all(risk(batch_size=10))
    for values in run_ranks(on_a_rank, 2):
        for found, value in zip(full, values, strict=True):
            assert value == pytest.approx(found.value, rel=tolerance(found.name), abs=1e-12), found.name


def test_mistakes_are_told_together_with_what_was_meant():
    with pytest.raises(ValueError, match="sharpness: 1 mistake") as told:
        sharpness(risk(), "metric_21")
    assert "kind: expected one of metric_2_1, metric_2_1_subspace" in str(told.value)
    assert "got 'metric_21'; did you mean 'metric_2_1'?" in str(told.value)
    wrong = {
        "metric_2_1": {"epsilom": 1, "epsilon": -1, "start": "center", "iterations": 2.5},
        "adaptive_linf": {"normalise_logits": "yes", "rho": math.nan},
        "metric_2_1_ascent": {"subspace": 0},
        "sharp": {},
    }
    with pytest.raises(ValueError, match=r"sharpness: 8 mistake\(s\)") as told:
        sharpness_all(risk(), wrong)
    for line in (
        "kind: expected one of metric_2_1,",
        "metric_2_1: no option 'epsilom'; it has epsilon, iterations, corrections, start; did you mean 'epsilon'?",
        "metric_2_1: epsilon: expected a positive number, got -1; the default is 0.001",
        "metric_2_1: start: expected one of 'uniform', 'corner', 'centre', got 'center'; the default is 'uniform'",
        "metric_2_1: iterations: expected a positive whole number, got 2.5; the default is 10",
        "adaptive_linf: normalise_logits: expected True or False, got 'yes'; the default is False",
        "adaptive_linf: rho: expected a positive number, got nan; the default is 0.001",
        "metric_2_1_ascent: subspace: expected a positive whole number, got 0; the default is None",
    ):
        assert line in str(told.value)
    with pytest.raises(ValueError, match="did you mean 'sam'"):
        expected_cost(risk(), ["samm"])


class AlwaysDropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = relu_network()

    def forward(self, inputs):
        return self.network(F.dropout(inputs))


def mean_loss(outputs, targets):
    return F.cross_entropy(outputs, targets)


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_measured_is_refused_with_the_reason(kind):
    with pytest.raises(ValueError, match="expected the same loss from two passes"):
        sharpness(risk(AlwaysDropping()), kind)
    broken = relu_network()
    with torch.no_grad():
        broken[0].bias[0] = math.nan
    with pytest.raises(ValueError, match=r"expected finite weights, got NaN or infinity in 0\.bias"):
        sharpness(risk(broken), kind)
    with pytest.raises(ValueError, match="expected one loss value per example"):
        sharpness(Risk(relu_network(), mean_loss, classes_data()), kind)
    inputs, targets = classes_data(samples=100)
    inputs[99] = math.inf
    with pytest.raises(ValueError, match="expected a finite loss at the weights to be measured, got nan"):
        sharpness(Risk(relu_network(), cross_entropy, (inputs, targets)), kind)


def test_an_eigenvalue_that_has_not_converged_says_so():
    curvatures = torch.linspace(1, 2, 60, dtype=torch.float64)
    found = sharpness(bowl(curvatures), "lambda_max", max_products=3)
    assert ((found.low <= curvatures) & (curvatures <= found.high)).any()
    assert "not necessarily the largest: 3 products did not reach the tolerance, take more max_products" in found.note
    assert sharpness(bowl(curvatures), "lambda_max").value == pytest.approx(2, rel=1e-3)


def test_the_trace_says_how_it_was_found():
    curvatures = torch.linspace(1, 2, 60, dtype=torch.float64)
    found = sharpness(bowl(curvatures), "trace", method="hutch++")
    assert abs(found.value - 90) < 4 * found.stderr + 1e-9
    assert found.note.startswith("by hutch++: ")


def test_all_stand_side_by_side_with_options_of_their_own():
    found = sharpness_all(risk(), {"sam": {"rho": 0.1}, "metric_2_1_ascent": {}})
    assert [measurement.name for measurement in found] == ["sam", "metric_2_1_ascent"]
    assert found[0].details["rho"] == 0.1
    assert [measurement.name for measurement in sharpness_all(risk(), ["asam", "sam"])] == ["asam", "sam"]
    assert [measurement.name for measurement in sharpness_all(risk())] == KINDS


@pytest.mark.parametrize("mode", ["running", "reestimated"])
@pytest.mark.parametrize("kind", ["metric_2_1_ascent", "sam", "asam", "adaptive_linf", "average"])
def test_the_cost_is_known_beforehand(kind, mode):
    model = batch_norm_network()
    (told,) = expected_cost(risk(model, batch_norm=mode), [kind])
    assert told.passes == pytest.approx(sharpness(risk(model, batch_norm=mode), kind).passes)


@pytest.mark.parametrize("kind", ["metric_2_1", "metric_2_1_subspace"])
def test_a_line_search_that_stops_by_itself_costs_no_more_than_told(kind):
    (told,) = expected_cost(risk(), [kind])
    assert 5 < sharpness(risk(), kind).passes <= told.passes


def test_telling_the_cost_takes_two_passes_over_one_batch():
    problem = risk(batch_size=10)
    told = expected_cost(problem)
    assert problem.passes == 2
    assert [cost.name for cost in told] == KINDS
    assert all(cost.seconds > 0 for cost in told)
    whole, doubled = (
        expected_cost(bowl(torch.ones(n)), {"metric_2_1_subspace": {"subspace": 50}})[0] for n in (60, 120)
    )
    assert doubled.memory_bytes == 2 * whole.memory_bytes
    assert whole.memory_bytes >= 60 * 50 * 8


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_is_explained(kind):
    told = inspect.getdoc(SHARPNESS[kind].measure)
    assert [name for name in SHARPNESS[kind].options if f"    {name}: " not in told] == []
    assert re.search(r"(19|20)\d\d", SHARPNESS[kind].paper)


def test_the_example_shows_the_effect(capsys):
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "dinh_rescaling.py"), run_name="__main__")
    rows = {
        line.split()[0]: [float(word) for word in line.split()[1:]] for line in capsys.readouterr().out.splitlines()[1:]
    }
    assert rows["metric_2_1_ascent"][-1] > 2 * rows["metric_2_1_ascent"][0]
    for kind in ("asam", "adaptive_linf"):
        assert rows[kind][-1] == pytest.approx(rows[kind][0], rel=1e-3)
