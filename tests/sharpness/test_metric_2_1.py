"""Metric 2.1 against closed forms, and the traps of its search."""

import re

import numpy as np
import pytest
import torch
from sharpness_problems import Bowl, batch_norm_network, bowl, output_is_loss, risk

from largebatch.core import Risk
from largebatch.sharpness._columns import RandomColumns
from largebatch.sharpness._registry import sharpness
from oracles.separable_quadratic import highest_in_box

CURVATURES = torch.tensor([20.0, 3.0, 1.0, 7.0, -4.0, 0.5, -0.7, 12.0, 2.0], dtype=torch.float64)
SEARCHES = ["metric_2_1", "metric_2_1_ascent"]


@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize("epsilon", [1e-3, 5e-4])
def test_at_the_minimum_of_a_diagonal_quadratic_it_is_50_epsilon_squared_times_the_trace(kind, epsilon):
    found = sharpness(bowl(CURVATURES.abs()), kind, epsilon=epsilon)
    assert found.value == pytest.approx(50 * epsilon**2 * float(CURVATURES.abs().sum()), rel=1e-6)


@pytest.mark.parametrize("kind", SEARCHES)
def test_directions_that_curve_downwards_count_nothing(kind):
    found = sharpness(bowl(CURVATURES), kind, iterations=10 if kind == "metric_2_1_ascent" else 30)
    assert found.value == pytest.approx(50 * 1e-6 * float(CURVATURES.clamp(min=0).sum()), rel=1e-6)


@pytest.mark.parametrize(("kind", "steepness"), [("metric_2_1", 0.1), ("metric_2_1_ascent", 1e-3)])
@pytest.mark.parametrize("seed", [0, 1])
def test_off_the_minimum_each_coordinate_is_as_high_as_its_interval_allows(kind, steepness, seed):
    """L-BFGS-B from a random start ends in whichever end of an interval it is drawn to: here the slope leaves one."""
    source = torch.Generator().manual_seed(seed)
    point = 1e-3 * torch.randn(9, generator=source, dtype=torch.float64)
    slope = torch.randn(9, generator=source, dtype=torch.float64).sign() * torch.where(CURVATURES < 0, 3e-4, steepness)
    found = sharpness(bowl(CURVATURES, point, slope), kind, iterations=30)
    g, h = (slope + CURVATURES * point).numpy(), CURVATURES.numpy()
    loss = float((CURVATURES * point**2).sum() / 2 + slope @ point)
    expected = 100 * highest_in_box(g, h, 1e-3 * (point.abs().numpy() + 1)) / (1 + loss)
    assert found.value == pytest.approx(expected, rel=1e-6)
    assert found.details["loss"] == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_linear_loss_is_highest_in_a_corner(kind):
    point, slope = torch.linspace(-1, 2, 7, dtype=torch.float64), torch.linspace(0.3, 0.9, 7, dtype=torch.float64)
    found = sharpness(bowl(torch.zeros(7), point, slope, constant=3.0), kind, iterations=30)
    loss = 3.0 + float(slope @ point)
    assert found.value == pytest.approx(100 * 1e-3 * float((slope * (point.abs() + 1)).sum()) / (1 + loss), rel=1e-9)


def test_from_the_centre_of_an_exact_minimum_lbfgsb_sees_no_slope():
    found = sharpness(bowl(CURVATURES.abs()), "metric_2_1", start="centre")
    assert found.value == 0
    assert found.details["evaluations"] == 2


def test_a_gain_of_epsilon_squared_is_not_taken_for_convergence():
    """SciPy's default tolerance on the value, 2.2e-9, ends the search after one iteration here."""
    curvatures = 1 + torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = 50 * 1e-10 * float(curvatures.sum())
    assert sharpness(bowl(curvatures), "metric_2_1", epsilon=1e-5).value == pytest.approx(expected, rel=1e-6)


class WrongSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, slope):
        return -slope


class WrongBowl(Bowl):
    def forward(self, slopes):
        return WrongSign.apply(super().forward(slopes))


def test_the_slope_belongs_to_the_value_that_is_searched():
    """smoothout hands SciPy −loss with +gradient: the line search fails and the sharpness is 0."""
    curvatures = CURVATURES.abs()
    right = bowl(curvatures)
    wrong = Risk(WrongBowl(curvatures, torch.zeros(9)), output_is_loss, right.data)
    assert sharpness(right, "metric_2_1").value == pytest.approx(50 * 1e-6 * float(curvatures.sum()), rel=1e-6)
    found = sharpness(wrong, "metric_2_1")
    assert found.value < 0.95 * 50 * 1e-6 * float(curvatures.sum())
    assert re.search("L-BFGS-B gave up after [0-9] of 10 iterations: ABNORMAL", found.note)


class Cliff(torch.nn.Module):
    """Finite near w = 0, NaN beyond 1e-4."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.full((4,), 1e-6, dtype=torch.float64))

    def forward(self, inputs):
        return inputs[:, 0] - torch.log(4e-4 - self.w.sum()) / 100


@pytest.mark.parametrize("kind", SEARCHES)
def test_a_search_that_meets_nan_says_so_and_keeps_what_it_saw(kind):
    found = sharpness(Risk(Cliff(), output_is_loss, (torch.ones(5, 1).double(), torch.zeros(5))), kind)
    assert found.value >= 0
    assert "the search ended early, at weights whose loss is nan" in found.note


@pytest.mark.parametrize("kind", [*SEARCHES, "metric_2_1_subspace"])
def test_a_loss_of_minus_one_has_no_metric(kind):
    with pytest.raises(ValueError, match=r"expects f > -1, got -1\.5; use a kind that does not"):
        sharpness(bowl(CURVATURES, constant=-1.5), kind, **({"subspace": 2} if "subspace" in kind else {}))


@pytest.mark.parametrize("columns", ["normalised", "raw"])
@pytest.mark.parametrize("kind", ["metric_2_1_subspace", "metric_2_1_ascent"])
def test_in_a_plane_it_is_what_a_grid_over_the_box_finds(kind, columns):
    point = torch.linspace(-0.5, 1, 6, dtype=torch.float64)
    problem = bowl(torch.tensor([9.0, 4.0, 1.0, 6.0, 2.0, 3.0]), point)
    drawn = RandomColumns(problem.point(), 2, normalised=columns == "normalised", seed=3)
    matrix = torch.stack([drawn.expand(unit) for unit in torch.eye(2, dtype=torch.float64)], dim=1).numpy()
    half_widths = 1e-3 * (np.abs(np.linalg.pinv(matrix) @ point.numpy()) + 1)
    shares = np.linspace(-1, 1, 41)
    h, x = problem.model.curvatures.numpy(), point.numpy()
    displaced = [x + matrix @ (half_widths * np.array([a, b])) for a in shares for b in shares]
    loss = (h * x**2).sum() / 2
    expected = 100 * (max((h * y**2).sum() / 2 for y in displaced) - loss) / (1 + loss)
    found = sharpness(problem, kind, seed=3, subspace=2, columns=columns, iterations=10)
    assert found.value == pytest.approx(expected, rel=1e-9)


def test_the_columns_pseudo_inverse_is_the_matrix_pseudo_inverse():
    point = torch.randn(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for normalised in (True, False):
        drawn = RandomColumns(point, 20, normalised=normalised, seed=1)
        matrix = torch.stack([drawn.expand(unit) for unit in torch.eye(20, dtype=torch.float64)], dim=1)
        torch.testing.assert_close(drawn.coordinates(point), torch.linalg.pinv(matrix) @ point, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(drawn.pull(point), matrix.T @ point, rtol=1e-12, atol=1e-12)
        is_unit = torch.allclose(matrix.norm(dim=0), torch.ones(20, dtype=torch.float64), rtol=1e-12)
        assert is_unit == normalised


def test_columns_too_large_to_hold_are_the_same_columns(monkeypatch):
    monkeypatch.setattr("largebatch.sharpness._columns.BLOCK_ROWS", 64)
    point = torch.randn(300, generator=torch.Generator().manual_seed(0))
    held, drawn = (RandomColumns(point, 5, normalised=True, seed=1, held_bytes=size) for size in (1 << 20, 0))
    z = torch.arange(5.0)
    assert torch.equal(held.expand(z), drawn.expand(z))
    assert torch.equal(held.pull(point), drawn.pull(point))


def test_more_columns_than_parameters_are_refused():
    with pytest.raises(
        ValueError, match="at most as many dimensions as parameters, 9, got 100; set subspace=9 or less"
    ):
        sharpness(bowl(CURVATURES), "metric_2_1_subspace")


def test_the_batch_norm_mode_changes_the_number_and_is_part_of_it():
    """Keskar's own mode is "batch"."""
    found = {
        mode: sharpness(risk(batch_norm_network(), batch_norm=mode, batch_size=10), "metric_2_1_ascent")
        for mode in ("running", "batch", "reestimated")
    }
    assert [found[mode].batch_norm for mode in found] == list(found)
    assert found["batch"].value != pytest.approx(found["running"].value, rel=0.02)
    assert found["reestimated"].value != pytest.approx(found["running"].value, rel=0.02)


def test_ascent_finds_at_least_what_lbfgsb_finds():
    model = batch_norm_network()
    faithful = sharpness(risk(model), "metric_2_1")
    better = sharpness(risk(model), "metric_2_1_ascent")
    assert better.value >= faithful.value
    assert better.passes <= 11
