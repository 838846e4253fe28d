"""The identity of a run: whatever decides its result is in it, and nothing else."""

import random

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

import small_tasks
from largebatch.train import build_model, identity


def digest(task, recipe=None, seed=0):
    return identity(task, recipe or small_tasks.recipe(), seed, build_model(task, seed))


def network(negative_slope=0.01, first=nn.Tanh):
    return nn.Sequential(nn.Linear(6, 10), first(), nn.LeakyReLU(negative_slope), nn.Linear(10, 4))


def factory(*arguments):
    return lambda: network(*arguments)


def test_layers_without_weights_count():
    """Equal weights, another function: a closure's source does not tell them apart."""
    digests = {digest(small_tasks.task(factory(*a))) for a in ((), (0.2,), (0.01, nn.ReLU))}
    assert len(digests) == 3
    assert digest(small_tasks.task(factory())) == digest(small_tasks.task(factory()))


def test_seed_recipe_data_and_targets_count():
    task = small_tasks.task()
    others = [
        digest(task, seed=1),
        digest(task, small_tasks.recipe(lr=0.2)),
        digest(small_tasks.task(samples=202)),
        digest(small_tasks.task(train=(task.train[0], task.train[1].flip(0)))),
        digest(small_tasks.task(test=small_tasks.data(61, seed=2))),
    ]
    assert len({digest(task), *others}) == 6


class Augmented(Dataset):
    """Draws from all three generators, as transforms do."""

    def __init__(self):
        self.x, self.y = small_tasks.data(20)

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return self.x[index] + random.random() + np.random.rand() + torch.rand(1), self.y[index]  # noqa: NPY002


def test_random_transforms_neither_change_the_digest_nor_lose_their_generators():
    task = small_tasks.task(train=Augmented())
    first = digest(task)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    random.random()
    np.random.rand()  # noqa: NPY002
    assert digest(task) == first
    random.setstate(states[0])
    before = random.getstate()
    digest(task)
    assert random.getstate() == before
    assert torch.equal(torch.get_rng_state(), states[2])
