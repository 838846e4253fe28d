"""Synthetic problems: every closed form against finite differences, autograd, enumeration or sampling."""

import math

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from largebatch.core import data_size, weigh
from largebatch.tasks import LinearRegression, LogisticRegression, NoisyQuadratic, Problem, SoftmaxRegression
from oracles import finite_differences


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _quadratic(samples: int = 101) -> NoisyQuadratic:
    a, b = _normal(4, 4, seed=1), _normal(4, 3, seed=2)
    return NoisyQuadratic(a @ a.T / 4, b @ b.T, start=torch.ones(4, dtype=torch.float64), samples=samples)


PROBLEMS = {
    "quadratic": _quadratic(),
    "linear": LinearRegression.generate(101, 4),
    "logistic": LogisticRegression.generate(101, 4),
    "softmax": SoftmaxRegression.generate(101, 3, 4),
}


@pytest.fixture(params=PROBLEMS)
def problem(request: pytest.FixtureRequest) -> Problem:
    return PROBLEMS[request.param]


@pytest.fixture
def point(problem: Problem) -> Tensor:
    return _normal(len(parameters_to_vector(problem.task().model().parameters())), seed=3)


def _example_gradients(problem: Problem, point: Tensor) -> Tensor:
    """(n, p) by torch.func through the task's model and loss."""
    task = problem.task()
    model = task.model()
    vector_to_parameters(point, model.parameters())
    assert isinstance(task.train, tuple)

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        values, _ = weigh(task.loss(functional_call(model, parameters, (x[None],)), y[None]), 1)
        return values.sum()

    named = {name: parameter.detach() for name, parameter in model.named_parameters()}
    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(named, *task.train)
    return torch.cat([g.flatten(1) for g in gradients.values()], dim=1)


def test_the_gradient_is_the_slope_of_the_loss(problem: Problem, point: Tensor) -> None:
    measured = finite_differences.gradient(problem.loss, point)
    torch.testing.assert_close(problem.gradient(point), measured, rtol=1e-7, atol=1e-8)


def test_the_hessian_is_the_slope_of_the_gradient(problem: Problem, point: Tensor) -> None:
    measured = finite_differences.jacobian(problem.gradient, point)
    torch.testing.assert_close(problem.hessian(point), measured, rtol=1e-7, atol=1e-8)


def test_the_task_has_this_loss(problem: Problem, point: Tensor) -> None:
    task = problem.task()
    model = task.model()
    vector_to_parameters(point, model.parameters())
    assert isinstance(task.train, tuple)
    values = task.loss(model(task.train[0]), task.train[1])
    assert isinstance(values, Tensor)
    assert values.shape == (101,)
    assert values.mean().item() == pytest.approx(problem.loss(point), rel=1e-12)


def test_gradient_and_noise_are_mean_and_covariance_of_the_examples_gradients(problem: Problem, point: Tensor) -> None:
    gradients = _example_gradients(problem, point)
    torch.testing.assert_close(problem.gradient(point), gradients.mean(dim=0), rtol=1e-10, atol=1e-12)
    covariance = torch.cov(gradients.T, correction=0)
    torch.testing.assert_close(problem.noise_covariance(point), covariance, rtol=1e-10, atol=1e-12)


def test_the_noise_scale_is_the_relative_error_of_a_batch_of_one(problem: Problem, point: Tensor) -> None:
    batch, draws = 5, 20_000
    gradients = _example_gradients(problem, point)
    picks = torch.randint(len(gradients), (draws, batch), generator=torch.Generator().manual_seed(4))
    true = problem.gradient(point)
    errors = (gradients[picks].mean(dim=1) - true).square().sum(dim=1) / true.square().sum() * batch  # (draws,)
    z = (float(errors.mean()) - problem.noise_scale(point)) / (float(errors.std()) / math.sqrt(draws))
    assert abs(z) < 4


def test_the_critical_batch_halves_the_best_step_and_its_gain() -> None:
    # McCandlish et al. 2018, section 2.2: the best rate at batch B is eps_max / (1 + B_noise / B), likewise the gain.
    # On a quadratic the expected loss after a step of rate r with one example is a parabola in r, exactly.
    problem, w = _quadratic(), _normal(4, seed=5)
    gradients = _example_gradients(problem, w)

    def expected_loss(rate: float) -> float:
        return math.fsum(problem.loss(w - rate * g) for g in gradients) / len(gradients)

    def vertex(minus: float, zero: float, plus: float) -> tuple[float, float]:
        slope, bend = (plus - minus) / 2, plus - 2 * zero + minus
        return -slope / bend, slope**2 / (2 * bend)

    rate_of_one, gain_of_one = vertex(expected_loss(-1), expected_loss(0), expected_loss(1))
    full = problem.gradient(w)
    rate_of_all, gain_of_all = vertex(*(problem.loss(w - rate * full) for rate in (-1, 0, 1)))
    factor = 1 + problem.critical_batch_size(w)
    assert rate_of_all / rate_of_one == pytest.approx(factor, rel=1e-9)
    assert gain_of_all / gain_of_one == pytest.approx(factor, rel=1e-9)


def test_no_noise_scale_where_the_gradient_vanishes() -> None:
    problem = _quadratic()
    assert problem.noise_scale(torch.zeros(4, dtype=torch.float64)) == math.inf
    assert problem.critical_batch_size(torch.zeros(4, dtype=torch.float64)) == math.inf


def test_parameters_may_come_straight_from_a_model(problem: Problem) -> None:
    w = parameters_to_vector(problem.task().model().parameters())
    assert w.requires_grad
    assert math.isfinite(problem.loss(w) + problem.noise_scale(w) + problem.critical_batch_size(w))
    answers = (problem.gradient(w), problem.hessian(w), problem.noise_covariance(w))
    assert not any(answer.requires_grad for answer in answers)


def test_the_noise_of_a_quadratic_is_exact_even_when_singular() -> None:
    problem = _quadratic()  # its noise has rank 3 of 4
    for part in (problem.task().train, problem.task().test):
        assert isinstance(part, tuple)
        torch.testing.assert_close(part[0].mean(dim=0), torch.zeros(4, dtype=torch.float64), atol=1e-13, rtol=0)
        torch.testing.assert_close(torch.cov(part[0].T, correction=0), problem.noise, atol=1e-12, rtol=0)


def test_the_same_seed_gives_the_same_data_and_another_seed_others() -> None:
    for kind in (LinearRegression, LogisticRegression, SoftmaxRegression):
        one, same, other = kind.generate(40, seed=1), kind.generate(40, seed=1), kind.generate(40, seed=2)
        assert torch.equal(one.train[0], same.train[0])
        assert torch.equal(one.train[1], same.train[1])
        assert not torch.equal(one.train[0], other.train[0])
        assert not torch.equal(one.train[0], one.test[0])


def test_generated_targets_follow_the_weights() -> None:
    # at its minimum a regression beats the trivial prediction on data it has not seen
    problem = SoftmaxRegression.generate(2000, 4, 3, seed=1)
    w = torch.zeros(12, dtype=torch.float64)
    for _ in range(50):
        w = w - torch.linalg.pinv(problem.hessian(w)) @ problem.gradient(w)
    assert float(problem.gradient(w).norm()) < 1e-10
    unseen = SoftmaxRegression(train=problem.test, test=problem.test, outputs=3)
    assert unseen.loss(w) < 0.95 * math.log(3)


def test_a_task_descends_under_its_own_recipe(problem: Problem) -> None:
    task = problem.task()
    assert task.recipe is not None
    assert data_size(task.train) == data_size(task.test) == 101
    with torch.random.fork_rng():
        torch.manual_seed(0)
        w = parameters_to_vector(task.model().parameters()).detach()
    start, momentum = problem.loss(w), torch.zeros_like(w)
    for _ in range(100):
        momentum = task.recipe.momentum * momentum + problem.gradient(w)
        w = w - task.recipe.lr * momentum
    assert problem.loss(w) < start


def test_a_quadratic_reports_every_mistake() -> None:
    start = torch.ones(2, dtype=torch.float64)
    lopsided = torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=torch.float64)
    with pytest.raises(
        ValueError,
        match=r"shape \(2, 2\) and more than 2 samples, got curvature \(2, 2\), not symmetric; noise \(3, 3\); 2 samples",
    ):
        NoisyQuadratic(lopsided, torch.eye(3, dtype=torch.float64), start, samples=2)
    with pytest.raises(ValueError, match="got noise with a negative eigenvalue"):
        NoisyQuadratic(torch.eye(2, dtype=torch.float64), -torch.eye(2, dtype=torch.float64), start)
