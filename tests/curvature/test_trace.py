"""Traces: exact where that is possible and only there, else intervals that cover."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from largebatch import core
from largebatch.core import Risk, cross_entropy
from largebatch.curvature import Hessian, _exact_trace, _linearity, _trace, hutchpp, trace
from largebatch.tasks import SoftmaxRegression
from oracles.dense_curvature import dense_hessian
from ranks import run_ranks
from small_networks import convolutional, images, mean_loss, perceptron, seeded, symmetric, vectors


def dense_trace(model, data):
    return float(dense_hessian(copy.deepcopy(model).eval(), mean_loss(data)).trace())


class Residual(nn.Module):
    """A skip connection, a scale by hand, an absolute value, two summands of one layer, a division by a constant."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 4)
        self.scale = nn.Parameter(torch.randn(3))

    def forward(self, x):
        h = (self.first(x) + self.first(-x.abs())) / 2
        h = torch.relu_(h) + self.second(F.leaky_relu(h) * self.scale).abs() / 3
        return self.last(torch.cat([h[:, :1], h[:, 1:].clamp(max=1.0)], 1))


@pytest.mark.parametrize("batch_size", [10, 4, 3])
@pytest.mark.parametrize(
    ("make", "data"),
    [(convolutional, images()), (lambda: perceptron(nn.LeakyReLU), vectors()), (Residual, vectors())],
)
def test_the_trace_of_a_piecewise_linear_network_is_exact(make, data, batch_size):
    model = seeded(make)
    found = trace(Risk(model, cross_entropy, data, batch_size=batch_size))
    assert found.method == "exact"
    assert found.value == pytest.approx(dense_trace(model, data), rel=1e-11)
    assert (found.stderr, found.low, found.high) == (0, found.value, found.value)
    assert found.products == 3  # of four classes: the Hessian of softmax has a null vector
    assert sum(found.by_parameter.values()) == pytest.approx(found.value, rel=1e-12)


def test_each_parameter_has_its_share():
    model, data = seeded(convolutional), images()
    found = trace(Risk(model, cross_entropy, data, batch_size=4)).by_parameter
    for name in ("0.weight", "1.bias", "7.weight"):
        block = dense_hessian(copy.deepcopy(model).eval(), mean_loss(data), [name])
        assert found[name] == pytest.approx(float(block.trace()), rel=1e-10)


def test_a_regression_has_the_trace_of_its_formula():
    problem = SoftmaxRegression.generate(50)
    task = problem.task()
    model = task.model()
    point = torch.cat([p.detach().flatten() for p in model.parameters()])
    found = trace(Risk(model, task.loss, task.train, batch_size=23))
    assert found.value == pytest.approx(float(problem.hessian(point).trace()), rel=1e-12)


def squares(outputs, targets):
    """Weighted, and not convex: the second output counts negatively."""
    values = outputs[:, :2].square() * torch.tensor([1.0, -0.5], dtype=outputs.dtype)
    return values, torch.stack([targets.double(), torch.ones(len(outputs)).double()], 1)


def test_weights_and_losses_that_are_not_convex():
    model, data = seeded(lambda: perceptron(nn.ReLU)), vectors()
    weights = torch.stack([data[1].double(), torch.ones(10).double()], 1)

    def loss(call):
        return (squares(call(data[0]), data[1])[0] * weights).sum() / weights.sum()

    expected = float(dense_hessian(copy.deepcopy(model).eval(), loss).trace())
    assert trace(Risk(model, squares, data, batch_size=3)).value == pytest.approx(expected, rel=1e-11)
    linear = trace(Risk(model, lambda outputs, targets: outputs[:, 0], data))
    assert (linear.value, linear.method) == (0, "exact")


def trace_on_a_rank(activation):
    with core.world_from_environment(torch.device("cpu")) as world:
        risk = Risk(seeded(lambda: perceptron(activation)), cross_entropy, vectors(), batch_size=2, world=world)
        found = trace(risk, products=8)
        return found.method, found.value


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_unequal_ranks_change_nothing(activation):
    method, value = trace_on_a_rank(activation)
    for found in run_ranks(trace_on_a_rank, 3, activation):
        assert found[0] == method
        assert found[1] == pytest.approx(value, rel=1e-12)


class Functional(nn.Module):
    """Bends without a module."""

    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(3, 3), nn.Linear(3, 4), function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


class Twice(nn.Module):
    """A layer fed by itself: W·W·x."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 4)

    def forward(self, x):
        return self.last(self.first(torch.relu(self.first(x))))


class Squash(torch.autograd.Function):
    """A function of the user's own."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Functional(torch.tanh), "Tanh"),
        (lambda: Functional(F.gelu), "Gelu"),
        (lambda: Functional(lambda h: h * h), "Mul of a parameter by itself"),
        (lambda: Functional(lambda h: 1 / h), "Reciprocal"),
        (lambda: Functional(lambda h: h / (h + 7)), "Div"),
        (lambda: Functional(lambda h: F.layer_norm(h, (3,))), "NativeLayerNorm"),
        (Twice, "Addmm of a parameter by itself"),
    ],
)
def test_what_bends_is_named_and_not_taken_for_exact(make, name):
    model, data = seeded(make), vectors()
    risk = Risk(model, cross_entropy, data, batch_size=4)
    with pytest.raises(ValueError, match=f"piecewise linear in each parameter, but it holds {name}"):
        trace(risk, method="exact")
    found = trace(risk, products=400)
    assert found.method == "remainder"
    assert name in found.note
    assert abs(found.value - dense_trace(model, data)) < 4 * found.stderr


def test_what_the_graph_knows_by_no_name_of_ours_is_not_taken_for_linear():
    risk = Risk(seeded(lambda: Functional(Squash.apply)), cross_entropy, vectors())
    with pytest.raises(ValueError, match="piecewise linear in each parameter, but it holds Squash"):
        trace(risk, method="exact")


def test_a_bend_that_no_name_betrays_shows_in_the_numbers(monkeypatch):
    monkeypatch.setattr(_linearity, "PIECEWISE_LINEAR", _linearity.PIECEWISE_LINEAR | {"Tanh"})
    risk = Risk(seeded(lambda: Functional(torch.tanh)), cross_entropy, vectors())
    with pytest.raises(ValueError, match=r"holds first\.weight: v'Hv differs from v'Gv by"):
        trace(risk, method="exact")


def test_only_what_lies_above_a_parameter_bends_it():
    model, data = seeded(perceptron), vectors()
    found = trace(Risk(model, cross_entropy, data, parameters="4.*", batch_size=4))
    block = dense_hessian(copy.deepcopy(model).eval(), mean_loss(data), ["4.weight", "4.bias"])
    assert found.method == "exact"
    assert found.value == pytest.approx(float(block.trace()), rel=1e-12)


@pytest.mark.parametrize("mode", ["running", "batch", "reestimated"])
def test_the_batch_norm_mode_decides_the_method_and_leaves_no_trace(mode):
    model, data = seeded(lambda: perceptron(nn.ReLU)), vectors()
    state, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    risk = Risk(model, cross_entropy, data, batch_size=5, batch_norm=mode)
    found = trace(risk, products=90)
    assert found.method == ("hutch++" if mode == "batch" else "exact")
    matrix = Hessian(risk)
    expected = sum(float((matrix @ e) @ e) for e in torch.eye(54).double())
    assert abs(found.value - expected) <= 4 * found.stderr + 1e-10
    if mode == "batch":
        assert found.note == "not exact: the layers 1 mix the examples of a batch"
        with pytest.raises(ValueError, match='trace: the layers 1 mix the examples of a batch: use method="hutch'):
            trace(risk, method="exact")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.training
    assert torch.equal(rng, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


class SequenceFirst(nn.Module):
    """Examples along the second axis inside, as recurrent networks have them; as many as there are steps."""

    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Linear(3, 3), nn.Linear(3, 4)

    def forward(self, x):
        return self.last(torch.relu(self.inner(x.transpose(0, 1))).cumsum(0).transpose(0, 1).mean(1))


def test_examples_along_another_axis_are_noticed(monkeypatch):
    model = seeded(SequenceFirst)
    x = torch.randn(5, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    monkeypatch.setattr(_linearity, "PIECEWISE_LINEAR", _linearity.PIECEWISE_LINEAR | {"Cumsum"})
    with pytest.raises(
        ValueError, match=r"gradients of inner\.weight, inner\.bias contradict the gradient of one example"
    ):
        trace(Risk(model, cross_entropy, (x, torch.arange(5) % 4)))


def test_many_outputs_fall_back_and_exact_says_why(monkeypatch):
    for module in (_trace, _exact_trace):
        monkeypatch.setattr(module, "MAX_OUTPUTS", 3)
    risk = Risk(seeded(lambda: perceptron(nn.ReLU)), cross_entropy, vectors())
    assert trace(risk).note == "not exact: an example has 4 outputs, a backward pass each, and 3 are the limit"
    with pytest.raises(ValueError, match=r'an example has 4 outputs, .* use method="hutch'):
        trace(risk, method="exact")
    with pytest.raises(ValueError, match='method: expected "auto", .* got "best"'.replace('"best"', "'best'")):
        trace(risk, method="best")


def decaying(seed, n=60):
    values = 10.0 * torch.arange(1, n + 1, dtype=torch.float64) ** -1.5
    values[::7] *= -1
    return symmetric(values, seed)[0]


def covered(matrices, products=30):
    hits, errors = 0, []
    for seed in range(matrices):
        matrix = decaying(seed)
        found = hutchpp(matrix, products, seed)
        hits += found.low <= float(matrix.trace()) <= found.high
        errors.append((found.value - float(matrix.trace())) / found.stderr)
    return hits / matrices, errors


def test_hutchpp_covers_the_truth_as_often_as_it_says():
    """60 matrices: 95 % ± 4 standard errors of a share."""
    share, _ = covered(60)
    assert share >= 0.95 - 4 * (0.95 * 0.05 / 60) ** 0.5


@pytest.mark.slow
def test_hutchpp_covers_91_to_98_percent_of_300_matrices():
    share, _ = covered(300)
    assert 0.91 <= share <= 0.98


def test_hutchpp_does_not_depend_on_the_length_of_its_vectors():
    """A trace of 216 instead of 65, from vectors that were not scaled: ours are signs, and the exact sum is the check."""
    matrix = decaying(0)
    estimates = torch.tensor([hutchpp(matrix, 18, seed).value for seed in range(100)])
    z = (estimates.mean() - matrix.trace()) / (estimates.std() / 10)
    assert abs(float(z)) < 4


def test_a_basis_of_the_whole_space_is_exact_and_too_few_products_are_refused():
    matrix = decaying(0, 8)
    found = hutchpp(matrix, 30)
    assert found.value == pytest.approx(float(matrix.trace()), rel=1e-12)
    assert (found.stderr, found.products) == (0, 16)
    with pytest.raises(ValueError, match="products: expected at least 6, two random vectors in each third, got 5"):
        hutchpp(matrix, 5)
