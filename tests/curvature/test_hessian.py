"""Products with the Hessian and the Gauss-Newton matrix: formulas, ragged batches, ranks, graphs that are kept or not."""

import copy

import pytest
import torch
from torch import nn

from largebatch import core
from largebatch.core import Risk, cross_entropy, swap_batchnorm
from largebatch.curvature import GGN, Hessian, _graphs, lanczos
from largebatch.tasks import LinearRegression, LogisticRegression, NoisyQuadratic, SoftmaxRegression
from oracles.dense_curvature import dense_gauss_newton, dense_hessian
from ranks import run_ranks
from small_networks import columns, convolutional, images, mean_loss, perceptron, seeded, symmetric, vectors

EXACT = {"rtol": 1e-12, "atol": 1e-14}


def of_problem(problem, point, batch_size):
    task = problem.task()
    model = task.model()
    with torch.no_grad():
        next(iter(model.parameters())).view(-1).copy_(point)
    return Risk(model, task.loss, task.train, batch_size=batch_size)


@pytest.mark.parametrize("make", [LinearRegression, LogisticRegression, SoftmaxRegression])
@pytest.mark.parametrize("operator", [Hessian, GGN])
def test_regressions_have_the_curvature_of_their_formula(make, operator):
    """A linear model with convex loss: Hessian and Gauss-Newton matrix are both the formula's."""
    problem = make.generate(50)
    dimension = len(problem.train[0].T) * problem.outputs
    point = torch.randn(dimension, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = columns(operator(of_problem(problem, point, 23)))
    torch.testing.assert_close(found, problem.hessian(point), **EXACT)


@pytest.mark.parametrize("where", [0.0, 1.0])
def test_a_quadratic_has_its_own_curvature_at_and_off_the_minimum(where):
    matrix, _ = symmetric([5.0, 2.0, 1.0, -0.5])
    problem = NoisyQuadratic(matrix, torch.eye(4, dtype=torch.float64), where * torch.ones(4, dtype=torch.float64), 64)
    found = columns(Hessian(of_problem(problem, where * torch.ones(4), 7)))
    torch.testing.assert_close(found, matrix, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch_size", [10, 5, 4, 3])  # 10; 5 + 5; 4 + 4 + 2; 3 + 3 + 3 + 1
@pytest.mark.parametrize("keep_graph", ["auto", False])
def test_products_are_those_of_the_full_batch_whatever_the_batches(batch_size, keep_graph):
    """Among others: eigenvalues that grow with the number of batches, and means of batch means."""
    model, data = seeded(perceptron), vectors()
    hessian = dense_hessian(copy.deepcopy(model).eval(), mean_loss(data))
    risk = Risk(model, cross_entropy, data, batch_size=batch_size)
    torch.testing.assert_close(columns(Hessian(risk, keep_graph=keep_graph)), hessian, **EXACT)
    p = copy.deepcopy(model).eval()(data[0]).softmax(1)
    gauss_newton = dense_gauss_newton(
        copy.deepcopy(model).eval(), data[0], torch.diag_embed(p) - p[:, :, None] * p[:, None]
    )
    torch.testing.assert_close(columns(GGN(risk, keep_graph=keep_graph)), gauss_newton, **EXACT)


def test_convolutions_pooling_and_a_chosen_layer():
    model, data = seeded(convolutional), images()
    whole = dense_hessian(copy.deepcopy(model).eval(), mean_loss(data))
    torch.testing.assert_close(columns(Hessian(Risk(model, cross_entropy, data, batch_size=4))), whole, **EXACT)
    names = ["4.weight", "4.bias"]
    layer = dense_hessian(copy.deepcopy(model).eval(), mean_loss(data), names)
    for operator in (Hessian, GGN):
        found = columns(operator(Risk(model, cross_entropy, data, parameters="4.*", batch_size=4)))
        assert found.shape == layer.shape == (112, 112)
        torch.testing.assert_close(found, layer, **EXACT)  # within one layer of a rectifier network both are the same


def weighted(outputs, targets):
    values = cross_entropy(outputs, targets)
    return values[:, None].expand(-1, 2), torch.stack([targets.double(), torch.ones_like(values)], dim=1)


def test_weights_count_as_they_are_given():
    model, data = seeded(perceptron), vectors()
    weights = data[1].double() + 1
    expected = dense_hessian(
        copy.deepcopy(model).eval(),
        lambda call: (cross_entropy(call(data[0]), data[1]) * weights).sum() / weights.sum(),
    )
    torch.testing.assert_close(columns(Hessian(Risk(model, weighted, data, batch_size=3))), expected, **EXACT)


def products_on_a_rank(mode):
    with core.world_from_environment(torch.device("cpu")) as world:
        model, data = seeded(perceptron), vectors()
        vector = torch.linspace(-1, 1, 54, dtype=torch.float64)
        risk = Risk(model, cross_entropy, data, batch_size=2, batch_norm=mode, world=world)
        operators = Hessian(risk), GGN(risk), Hessian(risk, keep_graph=False)
        return [operator @ vector for operator in operators for _ in range(2)]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("mode", ["running", "reestimated"])
def test_unequal_ranks_change_nothing(size, mode):
    """10 samples on 3 ranks: 3, 3 and 4, in batches of 2."""
    if size == 2 and mode == "reestimated":
        pytest.skip("one world size is enough for the re-estimation, whose ranks are tested with the risk")
    found = run_ranks(products_on_a_rank, size, mode)
    for rank in found[1:]:
        torch.testing.assert_close(rank, found[0], rtol=0, atol=0)
    if mode == "running":
        torch.testing.assert_close(found[0], products_on_a_rank(mode), **EXACT)
    first, again, *_ = found[0]
    torch.testing.assert_close(first, again, **EXACT)


def with_batch_statistics(model, data, batch_size):
    """Mean loss with batch norm written out over each batch, differentiable."""
    _, norm, activation, _, _ = model

    def loss(call_parameters):
        total = 0.0
        for x, y in zip(data[0].split(batch_size), data[1].split(batch_size), strict=True):
            h = x @ call_parameters["0.weight"].T + call_parameters["0.bias"]
            h = (h - h.mean(0)) / (h.var(0, correction=0) + norm.eps).sqrt()
            h = activation(h * call_parameters["1.weight"] + call_parameters["1.bias"])
            total += cross_entropy(h @ call_parameters["4.weight"].T + call_parameters["4.bias"], y).sum()
        return total / len(data[0])

    return loss


def test_batch_statistics_follow_the_weights():
    from oracles.dense_curvature import flat, named

    model, data = seeded(perceptron), vectors()
    blocks = torch.func.jacrev(torch.func.jacrev(with_batch_statistics(model, data, 5)))(named(model))
    expected = flat(blocks, list(named(model)))
    risk = Risk(model, cross_entropy, data, batch_size=5, batch_norm="batch")
    for keep_graph in (True, False):
        torch.testing.assert_close(columns(Hessian(risk, keep_graph=keep_graph)), expected, rtol=1e-10, atol=1e-12)


def test_reestimated_statistics_count_as_constants():
    model, data = seeded(perceptron), vectors()
    twin = copy.deepcopy(model).eval()
    hidden = twin[0](data[0]).split(4)
    twin[1].running_mean = (sum(h.mean(0) * len(h) for h in hidden) / 10).detach()
    twin[1].running_var = (sum(h.var(0) * len(h) for h in hidden) / 10).detach()
    expected = dense_hessian(twin, mean_loss(data))
    risk = Risk(model, cross_entropy, data, batch_size=4, batch_norm="reestimated")
    for keep_graph in (True, False):
        torch.testing.assert_close(columns(Hessian(risk, keep_graph=keep_graph)), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", ["running", "batch", "reestimated"])
@pytest.mark.parametrize("ghosts", [None, 4])
@pytest.mark.parametrize("operator", [Hessian, GGN])
def test_a_product_leaves_no_trace(mode, ghosts, operator):
    """Among others: running statistics that move with every product, and a model that is left in evaluation mode."""
    model, data = seeded(perceptron), vectors()
    if ghosts:
        swap_batchnorm(model, ghosts)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    buffers = dict(model.named_buffers())
    state, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    matrix = operator(Risk(model, cross_entropy, data, batch_norm=mode, batch_size=5))
    first, second = (matrix @ torch.ones(54, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(first, second, **EXACT)
    assert model.training
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(p.grad, torch.ones_like(p)) and p.grad.grad_fn is None for p in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(buffer is buffers[name] for name, buffer in model.named_buffers())


def by_optimizer(model):
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    torch.optim.Adam(model.parameters(), lr=0.1, fused=True).step()


def by_data(model):
    model[0].weight.data.mul_(1.5)


def by_statistics(model):
    model[1].running_var.mul_(2.0)


@pytest.mark.parametrize("move", [by_optimizer, by_data, by_statistics])
@pytest.mark.parametrize("operator", [Hessian, GGN])
def test_a_model_that_has_moved_is_seen_anew(move, operator):
    model, data = seeded(perceptron), vectors()
    risk = Risk(model, cross_entropy, data, batch_size=4)
    matrix, vector = operator(risk, keep_graph=True), torch.ones(54, dtype=torch.float64)
    before = matrix @ vector
    move(model)
    after = matrix @ vector
    torch.testing.assert_close(after, operator(risk, keep_graph=False) @ vector, **EXACT)
    assert (after - before).norm() > 1e-3 * before.norm()


class WithIdle(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Linear(3, 4), nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize("operator", [Hessian, GGN])
def test_a_parameter_that_nothing_uses_has_no_curvature(operator):
    model, data = seeded(WithIdle), vectors()
    found = columns(operator(Risk(model, cross_entropy, data)))
    assert found.shape == (22, 22)
    assert not found[16:].any()
    assert found[:16, :16].diagonal().sum() > 0
    assert not columns(operator(Risk(model, cross_entropy, data, parameters="idle.*"))).any()
    model.used.requires_grad_(False)
    assert not columns(operator(Risk(model, cross_entropy, data))).any()


@pytest.mark.parametrize("operator", [Hessian, GGN])
def test_a_linear_loss_has_none(operator):
    model = seeded(lambda: nn.Linear(3, 1))
    risk = Risk(model, lambda outputs, targets: outputs[:, 0], vectors())
    assert not columns(operator(risk)).any()
    assert lanczos(operator(risk), 2).values.tolist() == [0.0, 0.0]


def attention():
    return nn.Sequential(nn.Linear(3, 4), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Linear(4, 4))


def test_attention_has_second_derivatives():
    """Its fused kernels have none; the written-out ones do."""
    model = seeded(attention)
    x = torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = x, torch.arange(6) % 4
    risk = Risk(model, lambda outputs, targets: cross_entropy(outputs.mean(1), targets), data, batch_size=4)
    vector = torch.randn(risk.dimension, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = 1e-5
    with risk.displaced() as move:
        slopes = []
        for sign in (1, -1):
            move(sign * step * vector)
            slopes.append(risk.gradient())
    product = Hessian(risk) @ vector
    torch.testing.assert_close(product, (slopes[0] - slopes[1]) / (2 * step), rtol=1e-6, atol=1e-7)
    assert float(product.norm()) > 0.1


def test_graphs_are_kept_only_where_they_fit(monkeypatch):
    model, data = seeded(perceptron), vectors()
    risk = Risk(model, cross_entropy, data, batch_size=4)
    vector = torch.ones(54, dtype=torch.float64)
    roomy = Hessian(risk)
    expected = roomy @ vector
    assert roomy.is_kept
    with risk.measuring(), torch.enable_grad():
        held = _graphs._saved_bytes(risk, data, lambda: roomy._gradient(*data))
    assert 5 * 10 * 8 < held < 100 * 10 * 5 * 8  # a few activations of 10 samples
    needed = held + 3 * 54 * 8  # and the gradient of each of 4 + 4 + 2
    monkeypatch.setattr(_graphs, "free_bytes", lambda device: 1.8 * needed)
    tight = Hessian(risk)
    torch.testing.assert_close(tight @ vector, expected, **EXACT)
    assert not tight.is_kept
    monkeypatch.setattr(_graphs, "free_bytes", lambda device: 2.6 * needed)
    ample = Hessian(risk)
    torch.testing.assert_close(ample @ vector, expected, **EXACT)
    assert ample.is_kept


def test_resident_data_do_not_count_as_memory_of_the_graphs(monkeypatch):
    """Ten samples of a large data set are a view of all of it, and autograd saves the view."""
    inputs, targets = vectors(100_000)
    risk = Risk(seeded(perceptron), cross_entropy, (inputs[:10], targets[:10]))
    monkeypatch.setattr(_graphs, "free_bytes", lambda device: inputs.nbytes)
    hessian = Hessian(risk)
    hessian @ torch.ones(54, dtype=torch.float64)
    assert hessian.is_kept


class Exhausted:
    """A loss that runs out of memory at one of its calls."""

    def __init__(self, *fatal):
        self.fatal, self.calls = fatal, 0

    def __call__(self, outputs, targets):
        self.calls += 1
        if self.calls in self.fatal:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000000000 bytes.")
        return cross_entropy(outputs, targets)


def test_out_of_memory_falls_back_to_graphs_built_anew():
    model, data = seeded(perceptron), vectors()
    vector = torch.ones(54, dtype=torch.float64)
    expected = Hessian(Risk(model, cross_entropy, data, batch_size=4)) @ vector
    short = Hessian(Risk(model, Exhausted(4), data, batch_size=4), keep_graph=True)  # two calls examine the model
    torch.testing.assert_close(short @ vector, expected, **EXACT)
    assert not short.is_kept
    torch.testing.assert_close(short @ vector, expected, **EXACT)


def test_out_of_memory_with_one_batch_says_what_to_do():
    model, data = seeded(perceptron), vectors()
    for keep_graph, fatal in ((False, [4]), (True, [4, 5])):
        hessian = Hessian(Risk(model, Exhausted(*fatal), data, batch_size=4), keep_graph=keep_graph)
        with pytest.raises(RuntimeError, match="a batch of 4 samples: use a smaller batch_size of the risk"):
            hessian @ torch.ones(54, dtype=torch.float64)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    hessian = Hessian(Risk(seeded(perceptron), cross_entropy, vectors()))
    with pytest.raises(RuntimeError, match="split_with_sizes"):
        hessian @ torch.ones(3, dtype=torch.float64)


@pytest.mark.parametrize("keep_graph", [True, False])
def test_the_gradient_comes_with_the_graphs(keep_graph):
    risk = Risk(seeded(WithIdle), cross_entropy, vectors(), batch_size=4)
    hessian = Hessian(risk, keep_graph=keep_graph)
    torch.testing.assert_close(hessian.gradient(), risk.gradient(), **EXACT)
    before = risk.passes
    hessian @ torch.ones(22, dtype=torch.float64)
    assert risk.passes - before == pytest.approx(2 if keep_graph else 3)


def test_passes_are_counted_by_operations():
    risk = Risk(seeded(perceptron), cross_entropy, vectors(), batch_size=4)
    vector = torch.ones(54, dtype=torch.float64)
    for operator, keep, first, later in ((Hessian, True, 3, 2), (Hessian, False, 3, 3), (GGN, True, 7 / 3, 4 / 3)):
        matrix = operator(risk, keep_graph=keep)
        for cost in (first, later):
            before = risk.passes
            matrix @ vector
            assert risk.passes - before == pytest.approx(cost)
        assert matrix.products == 2


class TwoOutputs(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


def test_the_gauss_newton_matrix_wants_one_tensor_of_outputs():
    model = seeded(lambda: TwoOutputs(3, 4))
    risk = Risk(model, lambda outputs, targets: cross_entropy(outputs[0], targets), vectors())
    with pytest.raises(TypeError, match="expected a model that returns one tensor, got tuple"):
        GGN(risk) @ torch.ones(16, dtype=torch.float64)
