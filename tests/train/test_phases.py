"""Phases: what a successor carries over, and what belongs to it alone."""

import pytest
import torch

import small_tasks
from largebatch.core import Task, permutation
from largebatch.recipe import Phase
from largebatch.train import fit
from oracles import plain_training

CONSTANT = {"schedule": "constant", "nesterov": False, "ghost_batch_size": None}


def weights(run):
    return torch.cat([p.detach().reshape(-1) for p in run.model.parameters()])


def test_carrying_all_carries_the_moments_and_keeps_the_settings_of_the_new_phase():
    """A linear model under two rates of decay and momentum, against the same written plainly."""
    data = small_tasks.data(40)

    def loss(outputs, targets):
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")

    def linear():
        return torch.nn.Linear(6, 4, bias=False)

    task = Task("linear", linear, data, data, loss)
    later = small_tasks.recipe(40, lr=0.03, momentum=0.5, weight_decay=0.1, duration="3steps", **CONSTANT)
    first = small_tasks.recipe(40, lr=0.1, momentum=0.9, weight_decay=0.0, duration="2steps", **CONSTANT)
    run = fit(task, first.replace(then=Phase(later, carry="all")), progress=False)
    weight = small_tasks.build(task).weight.detach()
    velocity = torch.zeros_like(weight)
    for rate, momentum, decay, steps in ((0.1, 0.9, 0.0, 2), (0.03, 0.5, 0.1, 3)):
        for _ in range(steps):
            probabilities = torch.softmax(data[0] @ weight.T, 1)
            one_hot = torch.nn.functional.one_hot(data[1], 4)
            velocity = momentum * velocity + (probabilities - one_hot).T @ data[0] / 40 + decay * weight
            weight = weight - rate * velocity
    torch.testing.assert_close(run.model.weight.detach(), weight, rtol=1e-12, atol=1e-13)


def test_carrying_weights_starts_a_new_optimiser():
    task = small_tasks.task()
    later = small_tasks.recipe(203, lr=0.05, duration="4steps", **CONSTANT)
    run = fit(task, small_tasks.recipe(203, duration="3steps", **CONSTANT, then=Phase(later)), progress=False)
    first = fit(task, small_tasks.recipe(203, duration="3steps", **CONSTANT), progress=False)
    state = dict(first.model.named_parameters()), dict(first.model.named_buffers())
    order = permutation(203, 0, 0)  # one whole batch: its order does not matter beyond rounding
    batch = task.train[0][order], task.train[1][order]
    expected, _, _ = plain_training.train(
        [p.detach() for p in state[0].values()],
        (state[1]["1.running_mean"], state[1]["1.running_var"]),
        [batch] * 4, [0.05] * 4, ghost=None, momentum=0.9, weight_decay=1e-2, nesterov=False,
    )  # fmt: skip
    torch.testing.assert_close(weights(run), torch.cat([p.reshape(-1) for p in expected]), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("duration", ["1ep", "2ep"])
def test_the_end_of_a_phase_is_not_the_end_of_the_run(duration):
    """A short first phase that has not learnt yet is no divergence: only the last epoch of the last phase is judged."""
    slow = small_tasks.recipe(lr=1e-6, duration=duration, schedule="constant")
    run = fit(small_tasks.task(), slow.replace(then=Phase(small_tasks.recipe(duration="20ep"))), progress=False)
    assert run.status == "finished", run.reason
    alone = fit(small_tasks.task(), slow, progress=False)
    assert alone.status == "diverged"
