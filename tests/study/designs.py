"""Small studies for tests: seconds, not minutes."""

from largebatch.recipe import Recipe
from largebatch.study import Cell, Contrast, Measures, Study

TASK = """
import os, time
import torch
from torch import nn
from largebatch.core import Task, cross_entropy, accuracy
from largebatch.recipe import Recipe

def data(n, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=g)
    return x, x[:, :3].argmax(1)

class Slow(nn.Module):
    '''Not known to stacks: runs one by one, and as long as a test needs to kill it.'''
    def forward(self, x):
        time.sleep(float(os.environ.get("SLOW_SECONDS", "0")))
        return x

def network():
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), Slow(), nn.Linear(16, 3))

def stackable():
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))

class Crash(nn.Module):
    def forward(self, x):
        if self.training and len(x) > 100:
            raise RuntimeError("no such\\nbatch")
        return x

def crashing():
    return nn.Sequential(nn.Linear(6, 16), Crash(), nn.Linear(16, 3))

class Killer(nn.Module):
    def forward(self, x):
        if self.training:
            os.kill(os.getpid(), 9)
        return x

def deadly():
    return nn.Sequential(nn.Linear(6, 16), Killer(), nn.Linear(16, 3))

options = dict(train=data(512, 0), test=data(100, 1), loss=cross_entropy, metrics={"accuracy": accuracy},
               recipe=Recipe(32, lr=0.1, ghost_batch_size=16, duration="4ep"))
task = Task("mine", network, **options)
stacked = Task("mine", stackable, **options)
crash = Task("crash", crashing, **options)
killer = Task("killer", deadly, **options)
"""
SMALL = Recipe(32, lr=0.1, ghost_batch_size=16, duration="4ep")
FEW_LOOKS = Measures(
    look_epochs=(0.0,), look_shares=(1.0,), curvature_epochs=(), curvature_shares=(1.0,), look_samples=128,
    curvature_samples=64,
)  # fmt: skip


def write_task(folder):
    """The file of the tasks, as `path`."""
    path = folder / "my_task.py"
    path.write_text(TASK)
    return path


def two_cells(task, seeds=(0, 1, 2), **changes):
    """A small and a large batch."""
    cells = (Cell("small", SMALL, reference=True), Cell("large", SMALL.at(128, rule="none")))
    contrasts = (Contrast("gap", "is it worse?", "small", "large", primary=True),)
    options = {"name": "two", "subject": str(task), "cells": cells, "seeds": seeds, "contrasts": contrasts}
    return Study(**(options | {"measures": FEW_LOOKS, "question": "?"} | changes))


def without_times(result):
    """What two runs of the same study must agree on."""
    row = result.to_json()
    for name in ("seconds", "command"):
        del row[name]
    for run in row["runs"]:
        del run["seconds"]
    for measure in row["measurements"]:
        del measure["seconds"]
    for cell in row["cells"]:
        cell["estimates"].pop("seconds", None)
    return row
