"""Spectral densities: moments of known spectra, weights that sum to one, intervals over probes."""

import pytest
import torch

from largebatch.curvature import density
from small_networks import symmetric


def values(n=40):
    return torch.cat([torch.tensor([9.0, 5.0]), torch.linspace(-1, 1, n - 2)]).double()


def test_moments_of_the_whole_krylov_space_are_those_of_each_probe():
    """v'H^k v from the nodes, to rounding, for k below twice the steps: Gauss quadrature."""
    from largebatch.curvature._krylov import random_direction
    from largebatch.curvature._operator import as_operator

    matrix, _ = symmetric(values())
    found = density(matrix, steps=6, probes=3)
    for probe in range(3):
        v = random_direction(as_operator(matrix), 0, probe, 1)
        for power in range(12):
            expected = float(v @ torch.linalg.matrix_power(matrix, power) @ v)
            moment = float((found.weights[probe] * found.nodes[probe] ** power).sum())
            assert moment == pytest.approx(expected, rel=1e-6)


def test_moments_agree_with_the_spectrum_within_their_intervals():
    matrix, _ = symmetric(values())
    found = density(matrix, steps=20, probes=200)
    assert found.products == 200 * 20
    torch.testing.assert_close(found.weights.sum(dim=1), torch.ones(200).double())
    for power in (1, 2, 3):
        moment = found.moment(power)
        assert abs(moment.value - float(values().pow(power).mean())) < 4 * moment.stderr
        assert moment.n == 200
    assert "bias of few Lanczos steps and the smoothing width are not in it" in found.note


def test_a_multiple_of_the_identity_is_one_node():
    """The moments of a single eigenvalue have no error at all, and the sequence ends after one product."""
    found = density(3 * torch.eye(30).double(), steps=10, probes=2)
    assert found.products == 2
    assert found.moment(1).value == pytest.approx(3, rel=1e-12)
    assert found.moment(2).value == pytest.approx(9, rel=1e-12)
    assert found.nodes.shape == found.weights.shape == (2, 10)


def test_the_largest_eigenvalue_has_one_node_after_a_hundred_steps():
    """Ghosts would take weight from the rest: without re-orthogonalisation there were 13 of them."""
    spectrum = torch.cat([torch.tensor([1000.0, 700.0]), torch.linspace(0, 1, 600)])
    matrix, _ = symmetric(spectrum)
    found = density(matrix.float(), steps=100, probes=2)
    for nodes in found.nodes:
        assert ((nodes - 1000).abs() < 1).sum() == 1
        assert ((nodes - 700).abs() < 1).sum() == 1


def test_the_curve_is_a_density_with_an_error():
    matrix, _ = symmetric(values())
    grid = torch.linspace(-3, 12, 2000).double()
    curve, error = density(matrix, steps=20, probes=5).pdf(grid, 0.2)
    assert float(torch.trapezoid(curve, grid)) == pytest.approx(1, rel=1e-6)
    assert float(torch.trapezoid(curve * grid, grid)) == pytest.approx(
        density(matrix, steps=20, probes=5).moment(1).value
    )
    assert (error >= 0).all()
    alone = density(matrix, steps=5, probes=1)
    assert alone.pdf(grid, 0.2)[1].isnan().all()
    assert alone.moment(1).stderr != alone.moment(1).stderr


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="expected at least one step and one probe, got 0 and 4"):
        density(torch.eye(3), steps=0)
    with pytest.raises(ValueError, match="width: expected a positive number, in units of the eigenvalues, got 0"):
        density(torch.eye(3)).pdf(torch.zeros(1), 0)
