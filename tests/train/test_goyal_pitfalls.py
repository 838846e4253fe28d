"""Goyal et al. 2017 (arXiv 1706.02677), section 2.5 and section 3: three of the four pitfalls, as properties.

The fourth, one permutation per epoch split over the workers, belongs to the sampler.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from largebatch.core import Task, World
from largebatch.recipe import Recipe
from largebatch.train import LARS, build_optimizer, build_scheduler
from largebatch.train._gradient import GlobalGradient, Share

some = settings(max_examples=40, deadline=None)  # the first call pays for torch
SIZES = st.floats(0.01, 10)


def one_step(gradient, **fields):
    """Where one step of plain SGD takes the weights (1, -2, 3), in float64."""
    w = nn.Parameter(torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64))
    recipe = Recipe(8, momentum=0.0, nesterov=False, ghost_batch_size=None, **fields)
    w.grad = torch.tensor([gradient], dtype=torch.float64)
    optimizer: Any = build_optimizer([("w", w)], recipe)
    optimizer.step()
    return w.detach().numpy()[0]


# Remark 1: scaling the loss is not scaling the learning rate.


@some
@given(gradient=st.lists(st.floats(-5, 5), min_size=3, max_size=3), k=st.integers(2, 64), lr=SIZES, weight_decay=SIZES)
def test_scaling_the_loss_misses_the_weight_decay(gradient, k, lr, weight_decay):
    w = np.array([1.0, -2.0, 3.0])
    g = np.array(gradient)
    of_the_rate = one_step(gradient, lr=k * lr, weight_decay=weight_decay)
    of_the_loss = one_step(list(k * g), lr=lr, weight_decay=weight_decay)
    np.testing.assert_allclose(of_the_rate, w - k * lr * (g + weight_decay * w), rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(of_the_loss - of_the_rate, (k - 1) * lr * weight_decay * w, rtol=1e-10, atol=1e-11)


@some
@given(gradient=st.lists(st.floats(-5, 5), min_size=3, max_size=3), k=st.integers(2, 64), lr=SIZES)
def test_without_weight_decay_the_two_are_one(gradient, k, lr):
    of_the_loss = one_step([k * g for g in gradient], lr=lr, weight_decay=0.0)
    np.testing.assert_allclose(one_step(gradient, lr=k * lr, weight_decay=0.0), of_the_loss, rtol=1e-12, atol=1e-11)


# Remark 2: momentum correction belongs to form (10) alone, and torch's SGD is form (9).


def form_9(gradients, rates, m):
    """u ← m·u + g; w ← w - η·u. The rows are w after every update."""
    u, w, path = np.zeros_like(gradients[0]), np.zeros_like(gradients[0]), []
    for g, rate in zip(gradients, rates, strict=True):
        u = m * u + g
        w = w - rate * u
        path.append(w)
    return np.stack(path)


def form_10(gradients, rates, m, is_corrected):
    """v ← m·(η_{t+1}/η_t)·v + η_{t+1}·g; w ← w - v, or the same without the factor."""
    v, w, path = np.zeros_like(gradients[0]), np.zeros_like(gradients[0]), []
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True)):
        factor = rate / rates[t - 1] if is_corrected and t > 0 else 1.0
        v = m * factor * v + rate * g
        w = w - v
        path.append(w)
    return np.stack(path)


def trained(make, recipe, gradients):
    """(path, rates) of an optimiser from 0 under the recipe's schedule, given its gradients."""
    w = nn.Parameter(torch.zeros(1, 3, dtype=torch.float64))
    optimizer = make([("w", w)])
    scheduler = build_scheduler(optimizer, recipe, 100 * recipe.global_batch_size)
    path, rates = [], []
    for g in gradients:
        w.grad = torch.from_numpy(g[None])
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
        path.append(w.detach().numpy()[0].copy())
    return np.stack(path), rates


def warmup_recipe(k, momentum):
    return Recipe(
        32,
        lr=0.1 * k,
        momentum=momentum,
        nesterov=False,
        weight_decay=0.0,
        warmup="gradual(20steps,start_lr=0.1)",
        schedule="constant",
        duration="100steps",
    )


def gradients_of(seed):
    return np.random.default_rng(seed).normal(size=(40, 3)) + 1.0


@some
@given(k=st.integers(2, 32), momentum=st.floats(0.1, 0.99), seed=st.integers(0, 1000))
def test_torch_sgd_needs_no_momentum_correction(k, momentum, seed):
    recipe, gradients = warmup_recipe(k, momentum), gradients_of(seed)
    path, rates = trained(lambda named: build_optimizer(named, recipe), recipe, gradients)
    assert rates[0] == 0.1
    assert rates[20:] == [0.1 * k] * 20
    scale = np.abs(path).max()
    assert np.abs(path - form_9(gradients, rates, momentum)).max() < 1e-12 * scale
    assert np.abs(path - form_10(gradients, rates, momentum, is_corrected=True)).max() < 1e-12 * scale
    assert np.abs(path - form_10(gradients, rates, momentum, is_corrected=False)).max() > 1e-3 * scale


def test_at_a_constant_rate_all_forms_are_one():
    gradients, rates = gradients_of(0), [0.3] * 40
    expected = form_9(gradients, rates, 0.9)
    for is_corrected in (True, False):
        np.testing.assert_allclose(form_10(gradients, rates, 0.9, is_corrected), expected, rtol=1e-12)


@pytest.mark.parametrize("convention", ["torch", "paper"])
def test_the_conventions_of_lars_are_the_two_forms(convention):
    """Without adaptation. The paper's algorithm has form (10) without the factor."""
    recipe, gradients = warmup_recipe(16, 0.9), gradients_of(0)
    path, rates = trained(
        lambda named: LARS([{"params": named, "adapt": False}], recipe.lr, momentum_convention=convention),
        recipe,
        gradients,
    )
    expected = form_9(gradients, rates, 0.9) if convention == "torch" else form_10(gradients, rates, 0.9, False)
    np.testing.assert_allclose(path, expected, rtol=1e-12)


# Remark 3: normalise by the size kn of the global batch, not by each worker's n, and sum over the workers.


def squared_error(outputs, targets):
    return (outputs - targets).square().sum(1) / 2


def data_of(count, dtype=torch.float64):
    """Regression data (count, 3), (count, 2) whose size grows, so that parts have unlike gradients."""
    draws = np.random.default_rng(0)
    growth = np.linspace(1, 4, count)[:, None]
    x, y = draws.normal(size=(count, 3)) * growth, draws.normal(size=(count, 2)) * growth
    return torch.from_numpy(x).to(dtype), torch.from_numpy(y).to(dtype)


def linear(dtype):
    model = nn.Linear(3, 2, bias=False, dtype=dtype)
    with torch.no_grad():
        model.weight.copy_(torch.arange(6).reshape(2, 3) / 5 - 0.5)
    return model


def full_batch_gradient(x, y):
    """Closed form in float64 numpy, of the mean loss over all samples: (2, 3)."""
    x, y = x.double().numpy(), y.double().numpy()
    w = linear(torch.float64).weight.detach().numpy()
    return (x @ w.T - y).T @ x / len(x)


def aggregated_gradient(ranks, dtype):
    """The sum over ranks of what each contributes; a rank is the sizes of its micro-batches. (2, 3)."""
    x, y = data_of(sum(map(sum, ranks)), dtype)
    model = linear(dtype)
    recipe = Recipe(len(x), lr=0.1, ghost_batch_size=None)
    task = Task("regression", lambda: model, (x, y), (x, y), squared_error)
    gradient = GlobalGradient(model, task, recipe, World(), torch.device("cpu"), seed=0, micro_batch_size=None)
    total, start = torch.zeros_like(model.weight), 0
    for sizes in ranks:
        stops = np.cumsum([start, *sizes]).tolist()
        pieces = [(x[a:b], y[a:b]) for a, b in pairwise(stops)]
        gradient(Share((0, 0), len(x), start, pieces))
        assert model.weight.grad is not None
        total += model.weight.grad
        start = stops[-1]
    return total.detach(), full_batch_gradient(*data_of(len(x), dtype))


SPLITS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=4).filter(
    lambda ranks: sum(map(sum, ranks)) > 0
)


@some
@given(ranks=SPLITS)
def test_the_sum_over_kn_is_the_gradient_of_the_full_batch(ranks):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        found, expected = aggregated_gradient(ranks, dtype)
        assert np.abs(found.double().numpy() - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("sizes", [[4, 4, 2], [7, 1], [3, 3, 3, 1]])
def test_the_mean_of_means_is_not(sizes):
    x, y = data_of(sum(sizes))
    expected = full_batch_gradient(x, y)
    means = [full_batch_gradient(a, b) for a, b in zip(x.split(sizes), y.split(sizes), strict=True)]
    assert np.abs(np.mean(means, axis=0) - expected).max() > 0.02 * np.abs(expected).max()
    weighted = np.average(means, axis=0, weights=sizes)
    np.testing.assert_allclose(weighted, expected, rtol=1e-12)
