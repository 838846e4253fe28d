"""The spectrum of a model, with everything a reader needs to trust it."""

import copy
import json
import math

import pytest
import torch
from torch import nn

from largebatch.core import Risk, cross_entropy
from largebatch.diagnose._spectrum import Spectrum, spectrum
from largebatch.tasks import NoisyQuadratic
from oracles.dense_curvature import dense_hessian
from small_networks import mean_loss, perceptron, seeded, symmetric, vectors


@pytest.mark.parametrize("where", [0.0, 1.0])
def test_the_spectrum_of_a_quadratic_is_its_own_at_and_off_the_minimum(where):
    values = torch.tensor([7.0, 3.0, 2.0, 1.0, 0.5, -0.25], dtype=torch.float64)
    matrix, _ = symmetric(values)
    start = where * torch.ones(6, dtype=torch.float64)
    task = NoisyQuadratic(matrix, torch.eye(6, dtype=torch.float64), start, 64).task()
    found = spectrum(Risk(task.model(), task.loss, task.train, batch_size=7), 3, probes=3, steps=6)
    assert found.top == pytest.approx((7, 3, 2), rel=1e-6)
    assert found.bottom == pytest.approx((-0.25,), rel=1e-6)
    assert found.trace.low - 1e-9 <= 13.25 <= found.trace.high + 1e-9
    for power in (1, 2, 3):
        for nodes in found.density_nodes:
            assert sorted(nodes) == pytest.approx(sorted(values.tolist()), rel=1e-6)
        assert found.density.moment(power).n == 3
    assert found.sampling_error == pytest.approx(0, abs=1e-12)  # each example has the same curvature
    assert found.converged


@pytest.mark.parametrize("mode", ["running", "batch", "reestimated"])
def test_a_network_with_all_that_belongs_to_the_number(mode):
    model, data = seeded(lambda: perceptron(nn.ReLU)), vectors()
    state, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    risk = Risk(model, cross_entropy, data, batch_size=5, batch_norm=mode)
    found = spectrum(risk, 2, tolerance=1e-6)
    assert (found.batch_norm, found.samples, found.dtype, found.dimension) == (mode, 10, "float64", 54)
    if mode == "running":
        exact = dense_hessian(copy.deepcopy(model).eval(), mean_loss(data))
        eigenvalues = torch.linalg.eigvalsh(exact)
        assert (*found.top, *found.bottom) == pytest.approx(eigenvalues[[-1, -2, 0]].tolist(), rel=1e-6)
        assert found.trace.value == pytest.approx(float(exact.trace()), rel=1e-11)
    assert found.sampling_error > 0
    assert found.passes == pytest.approx(risk.passes)
    assert found.seconds > 0
    assert (found.density, found.note) == (None, "")
    again = Spectrum.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state())
    assert model.training


def test_what_did_not_converge_says_so():
    risk = Risk(seeded(lambda: nn.Linear(3, 4)), cross_entropy, vectors(), batch_size=4)
    found = spectrum(risk, 2, max_products=3, with_trace=False)
    assert not found.converged
    assert found.note == "not converged in 3 products: the bounds say how far it came"
    assert found.trace is None
    assert found.batch_norm == "none"
    one = spectrum(Risk(seeded(lambda: nn.Linear(3, 4)), cross_entropy, vectors(1)), 1)
    assert math.isnan(one.sampling_error)
    with pytest.raises(ValueError, match=r"k: expected 1 to 16 eigenvalues of a 16 x 16 operator, got 16 \+ 1"):
        spectrum(risk, 16)
