"""Risk: sums over samples, whatever the batches and ranks; and no trace of a measurement."""

import copy

import pytest
import torch
from torch import nn

from largebatch import core
from largebatch.core import Risk, cross_entropy, swap_batchnorm
from ranks import run_ranks


def problem(seed=0, samples=10):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 4)).double()
    swap_batchnorm(model, 4)
    model(torch.randn(16, 3, dtype=torch.float64))
    return model, (torch.randn(samples, 3, dtype=torch.float64), torch.randint(4, (samples,)))


def full_batch(model, data):
    """Value and gradient of the mean over all samples at once, by plain autograd."""
    twin = copy.deepcopy(model).eval()
    loss = cross_entropy(twin(data[0]), data[1]).mean()
    return loss.item(), torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(twin.parameters()))])


@pytest.mark.parametrize("batch_size", [10, 5, 4, 3, 1])  # 4 + 4 + 2, 3 + 3 + 3 + 1
def test_value_and_gradient_are_those_of_the_full_batch(batch_size):
    model, data = problem()
    risk = Risk(model, cross_entropy, data, batch_size=batch_size)
    value, gradient = full_batch(model, data)
    assert risk.value() == pytest.approx(value, rel=1e-13)
    torch.testing.assert_close(risk.gradient(), gradient, rtol=1e-12, atol=1e-14)


def weighted_loss(outputs, targets):
    values = cross_entropy(outputs, targets)
    return values[:, None].expand(-1, 2), torch.stack([targets.double(), torch.ones_like(values)], dim=1)


def test_weights_count_as_they_are_given():
    model, data = problem()
    twin = copy.deepcopy(model).eval()
    values = cross_entropy(twin(data[0]), data[1])
    weights = data[1].double() + 1
    loss = (values * weights).sum() / weights.sum()
    expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(twin.parameters()))])
    risk = Risk(model, weighted_loss, data, batch_size=3)
    assert risk.value() == pytest.approx(loss.item(), rel=1e-13)
    torch.testing.assert_close(risk.gradient(), expected, rtol=1e-12, atol=1e-14)


def risk_on_a_rank():
    with core.world_from_environment(torch.device("cpu")) as world:
        model, data = problem()
        risk = Risk(model, cross_entropy, data, batch_size=3, world=world)
        return risk.value(), risk.gradient()


def test_unequal_ranks_change_nothing():
    value, gradient = full_batch(*problem())
    for found in run_ranks(risk_on_a_rank, 3):
        assert found[0] == pytest.approx(value, rel=1e-13)
        torch.testing.assert_close(found[1], gradient, rtol=1e-12, atol=1e-14)


def test_per_example_gradients_average_to_the_gradient():
    model, data = problem()
    risk = Risk(model, cross_entropy, data)
    per_example = risk.per_example_gradients(*data)
    assert per_example.shape == (10, risk.dimension)
    torch.testing.assert_close(per_example.mean(0), full_batch(model, data)[1], rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="but 1 mix them in this mode"):
        Risk(model, cross_entropy, data, batch_norm="batch").per_example_gradients(*data)


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_a_measurement_leaves_no_trace(mode):
    model, data = problem()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    state = copy.deepcopy(model.state_dict())
    rng = torch.get_rng_state()
    risk = Risk(model, cross_entropy, data, batch_norm=mode, batch_size=5)
    risk.value()
    risk.gradient()
    assert model.training
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_mistakes_are_named():
    model, data = problem()
    with pytest.raises(ValueError, match="data: expected at least one sample, got none"):
        Risk(model, cross_entropy, (data[0][:0], data[1][:0]))
    with pytest.raises(ValueError, match="at least one parameter that requires a gradient"):
        Risk(nn.Flatten(), cross_entropy, data)
