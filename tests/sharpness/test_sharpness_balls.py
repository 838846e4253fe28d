"""SAM, ASAM, adaptive ℓ∞ and the average case against closed forms."""

import math

import pytest
import torch
from sharpness_problems import Bowl, bowl, output_is_loss, relu_network, risk

from largebatch.core import Risk
from largebatch.sharpness._ascent import _checkpoints
from largebatch.sharpness._registry import sharpness
from oracles.separable_quadratic import highest_in_box, highest_linear_in_ball

POINT = torch.tensor([0.5, -2.0, 0.0, 1.0, -0.1], dtype=torch.float64)
SLOPE = torch.tensor([1.0, -0.3, 5.0, 0.2, -0.7], dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "norm", "is_adaptive"), [("sam", "2", False), ("asam", "2", True), ("adaptive_linf", "inf", True)]
)
@pytest.mark.parametrize("options", [{}, {"rho": 0.02, "steps": 3}])
def test_a_linear_loss_rises_by_the_dual_norm_of_its_slope(kind, norm, is_adaptive, options):
    found = sharpness(bowl(torch.zeros(5), POINT, SLOPE), kind, **options)
    rho = options.get("rho", {"sam": 0.05, "asam": 0.5, "adaptive_linf": 1e-3}[kind])
    scale = rho * (POINT.abs() if is_adaptive else torch.ones_like(POINT))
    assert found.value == pytest.approx(highest_linear_in_ball(SLOPE, scale, norm), rel=1e-9)
    assert found.details["rho"] == rho


def test_weights_of_zero_stay_where_they_are():
    for kind in ("asam", "adaptive_linf"):
        only_zeros = sharpness(bowl(torch.ones(3), torch.zeros(3), torch.ones(3)), kind)
        assert only_zeros.value == 0
        half = sharpness(bowl(torch.zeros(2), [0.0, 1.0], [100.0, 1.0]), kind, rho=0.01, steps=1)
        assert half.value == pytest.approx(0.01, rel=1e-9)


def test_sams_first_order_is_one_gradient_step_to_the_sphere():
    problem = bowl(torch.tensor([9.0, 1.0, 4.0, 2.0, 3.0]), POINT, SLOPE)
    h, x = problem.model.curvatures, POINT
    gradient = h * x + SLOPE
    e = 0.05 * gradient / gradient.norm()
    found = sharpness(problem, "sam")
    assert found.value == pytest.approx(float(gradient @ e + (h * e * e).sum() / 2), rel=1e-9)
    assert found.passes == pytest.approx(1 + 1 / 3)


def test_at_a_minimum_more_steps_find_the_largest_eigenvalue():
    found = sharpness(bowl(torch.tensor([9.0, 1.0, 0.5, 0.2, 0.1])), "sam", steps=40)
    assert found.value == pytest.approx(0.05**2 * 9 / 2, rel=1e-6)


def test_adaptive_linf_of_a_quadratic_is_separable():
    h = torch.tensor([9.0, 1.0, 4.0, -2.0, 3.0], dtype=torch.float64)
    found = sharpness(bowl(h, POINT, SLOPE), "adaptive_linf", rho=0.01)
    expected = highest_in_box((h * POINT + SLOPE).numpy(), h.numpy(), 0.01 * POINT.abs().numpy())
    assert found.value == pytest.approx(expected, rel=1e-9)


def test_the_step_is_looked_at_where_croce_and_hein_look():
    assert sorted(_checkpoints(100))[:5] == [
        22,
        41,
        57,
        70,
        80,
    ]  # gaps 0.22, 0.19, 0.16, 0.13, 0.10, then 0.07, 0.06, …
    assert all(1 <= k <= 20 for k in _checkpoints(20))


class Narrow(torch.nn.Module):
    """−|w − 0.3·r| in units of the box: a step of the whole box jumps over the top."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, inputs):
        return inputs[:, 0] - (self.w - 1.03).abs().sum()


def test_auto_pgd_halves_its_step_until_it_finds_a_top_inside():
    problem = Risk(Narrow(), output_is_loss, (torch.ones(3, 1).double(), torch.zeros(3)))
    found = sharpness(problem, "adaptive_linf", rho=0.1, steps=60)
    assert found.value == pytest.approx(0.03, rel=0.02)
    assert sharpness(problem, "adaptive_linf", rho=0.1, steps=1).value == 0


def test_normalised_logits_have_no_scale():
    def measure(factor, **options):
        model = relu_network()
        with torch.no_grad():
            model[4].weight *= factor
            model[4].bias *= factor
        return sharpness(risk(model), "adaptive_linf", **options)

    plain, larger = (measure(factor, normalise_logits=True) for factor in (1.0, 8.0))
    assert larger.value == pytest.approx(plain.value, rel=1e-9)
    assert measure(8.0).value != pytest.approx(measure(1.0).value, rel=0.1)
    assert "the scale of the logits" in plain.unchanged_by
    assert plain.passes == pytest.approx(20 + 1 / 3)


def test_normalised_logits_are_centred_and_of_unit_length():
    seen = []

    def look(outputs, targets):
        seen.append(outputs)
        return outputs.square().sum(1)

    model = relu_network()
    problem = Risk(model, look, (torch.randn(5, 6, dtype=torch.float64), torch.zeros(5)))
    found = sharpness(problem, "adaptive_linf", normalise_logits=True, steps=1)
    assert found.details["loss"] == pytest.approx(1, rel=1e-12)
    assert torch.allclose(seen[-1].mean(1), torch.zeros(5, dtype=torch.float64), atol=1e-12)
    assert problem.loss is look


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_average_case_of_a_quadratic_is_half_its_weighted_trace(adaptive):
    h = torch.tensor([9.0, 1.0, 4.0, -2.0, 3.0], dtype=torch.float64)
    found = sharpness(bowl(h, POINT, SLOPE), "average", pairs=200, sigma=0.01, adaptive=adaptive)
    variance = 1e-4 * (POINT**2 if adaptive else torch.ones(5))
    expected = float((h * variance).sum()) / 2
    assert abs(found.value - expected) < 4 * found.stderr
    assert found.stderr < 0.3 * abs(expected)
    assert found.low < found.value < found.high


def test_pairs_cancel_the_slope():
    found = sharpness(bowl(torch.zeros(5), POINT, 1e3 * SLOPE), "average")
    assert abs(found.value) < 1e-9


def test_one_pair_has_no_interval():
    found = sharpness(bowl(torch.ones(5), POINT), "average", pairs=1)
    assert math.isnan(found.stderr)
    assert "take at least 2" in found.note


class Cliff(Bowl):
    def forward(self, slopes):
        return super().forward(slopes) + (0.01 - self.w.square().sum()).sqrt()


def test_draws_without_a_loss_leave_no_mean():
    problem = Risk(Cliff(torch.ones(3), torch.zeros(3)), output_is_loss, (torch.ones(4, 3).double(), torch.zeros(4)))
    found = sharpness(problem, "average", sigma=1.0)
    assert math.isnan(found.value)
    assert "10 of 10 pairs had a loss that is not finite, so there is no mean; take a smaller sigma" in found.note
