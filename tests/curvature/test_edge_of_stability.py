"""λ_max of full-batch gradient descent: a law of training that the tracker must see."""

import importlib.util
from pathlib import Path

import pytest


def script():
    path = Path(__file__).parents[2] / "benchmarks" / "edge_of_stability.py"
    specification = importlib.util.spec_from_file_location("edge_of_stability", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("lr", [0.1, 0.14])
def test_gradient_descent_climbs_to_two_over_its_rate_and_stays(lr):
    """Cohen et al. 2021: from below to 2/η, and there it stays."""
    edge = script()
    rows = edge.descend(lr, 3000)
    sharpness = [row["sharpness_times_lr"] for row in rows]
    assert sharpness[0] < 1.6
    late = sharpness[len(sharpness) // 2 :]
    assert 1.85 < sum(late) / len(late) < 2.2
    assert min(late) > 1.7
    assert sum(row["products"] for row in rows[1:]) / (len(rows) - 1) < 6
    drawing = edge.picture([(lr, rows)])
    assert f"2/η = {2 / lr:g}" in drawing
