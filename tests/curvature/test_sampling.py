"""The curvature of a sample is not that of the data: its standard error is what it varies by."""

import pytest
import torch

from largebatch import core
from largebatch.core import Risk, cross_entropy
from largebatch.curvature import Hessian, sampling_error
from largebatch.tasks import LogisticRegression
from ranks import run_ranks
from small_networks import perceptron, seeded, vectors


def regression(samples=20_000):
    problem = LogisticRegression.generate(samples)
    task = problem.task()
    model = task.model()
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-1, 1, 5)[None])
    vector = torch.ones(5, dtype=torch.float64) / 5**0.5
    return Risk(model, task.loss, task.train, batch_size=512), vector


@pytest.mark.parametrize(("samples", "population"), [(200, None), (5000, 10_000)])
def test_the_error_is_the_spread_over_subsets(samples, population):
    """By the exact curvature of every subset; half of the data has only half of the variance left."""
    whole, vector = regression()
    whole = whole.subset(population or 20_000)
    truth = float(vector @ (Hessian(whole) @ vector))
    ratios, errors = [], []
    for seed in range(40):
        part = whole.subset(samples, seed)
        error = sampling_error(part, vector, population=whole.samples if population else None)
        ratios.append((float(vector @ (Hessian(part) @ vector)) - truth) / error)
        errors.append(error)
    spread = torch.tensor(ratios).square().mean()
    assert abs(float(spread) - 1) < 4 * (2 / 40) ** 0.5
    assert max(errors) < 2.5 * min(errors)


def error_on_a_rank(size_hint):
    with core.world_from_environment(torch.device("cpu")) as world:
        risk = Risk(seeded(perceptron), cross_entropy, vectors(), batch_size=2, world=world)
        return sampling_error(risk, torch.ones(54, dtype=torch.float64))


def test_blocks_are_gathered_over_the_ranks():
    """Blocks of one sample: the same on any number of ranks."""
    assert run_ranks(error_on_a_rank, 3, 3) == pytest.approx([error_on_a_rank(1)] * 3, rel=1e-10)


def test_all_of_the_data_has_no_sampling_error():
    risk = Risk(seeded(perceptron), cross_entropy, vectors())
    vector = torch.ones(54, dtype=torch.float64)
    assert sampling_error(risk, vector) > 0
    assert sampling_error(risk, vector, population=10) == 0
    linear = Risk(seeded(lambda: torch.nn.Linear(3, 1)), lambda outputs, targets: outputs[:, 0], vectors())
    assert sampling_error(linear, torch.ones(4, dtype=torch.float64)) == 0


def test_what_cannot_vary_is_refused():
    risk = Risk(seeded(perceptron), cross_entropy, vectors(), batch_norm="batch")
    vector = torch.ones(54, dtype=torch.float64)
    with pytest.raises(ValueError, match="expected at least 2 blocks of samples, got 1: use more samples"):
        sampling_error(risk, vector)
    with pytest.raises(ValueError, match="population: expected at least the 10 samples of the risk, got 9"):
        sampling_error(risk, vector, population=9)
