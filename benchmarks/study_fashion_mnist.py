"""The open question on Fashion-MNIST: studies for `largebatch study`, cheap enough for two cores.

    largebatch study benchmarks/study_fashion_mnist.py:f1_10k --out runs/f1-10k     # equal epochs and equal updates
    largebatch study benchmarks/study_fashion_mnist.py:f1_60k --out runs/f1-60k     # equal epochs on all data
    largebatch study benchmarks/study_fashion_mnist.py:conv_10k --out runs/conv-10k

Add --seeds, --dry-run, --workers; an interrupted study goes on. docs/results/open-question.md holds what came of them.
"""

from dataclasses import replace
from pathlib import Path

from torch import nn

from largebatch import tasks
from largebatch.core import Task
from largebatch.recipe import Recipe
from largebatch.study import Study, Subject, open_question

SAMPLES = 10_000
SMALL, LARGE = 64, 1000
WHOLE_UPDATES = 300


def f1_10k() -> Study:
    """Keskar's F1 on 10,000 samples: batches 64, 1000 and 10,000, 20 epochs and equal updates."""
    subject = Subject("fashion-mnist/f1", samples=SAMPLES)
    study = open_question(subject, small=SMALL, large=LARGE, whole_updates=WHOLE_UPDATES, quick=True, duration="20ep")
    return replace(study, name="open-question-f1-10k")


def f1_60k() -> Study:
    """Keskar's F1 on all 60,000 samples: batches 256 and 6,000 for 20 epochs, 60,000 for 100 updates."""
    subject = Subject("fashion-mnist/f1")
    study = open_question(subject, small=256, large=6000, whole_updates=100, quick=True, duration="20ep")
    return replace(
        study.without("sgd large kept, updates", "sgd large scaled gradual, updates"), name="open-question-f1-60k"
    )


def conv_10k() -> Study:
    """A small convolutional network on 10,000 samples."""
    subject = Subject(f"{Path(__file__).resolve()}:small_conv", samples=SAMPLES)
    study = open_question(subject, small=SMALL, large=LARGE, whole_updates=WHOLE_UPDATES, quick=True, duration="20ep")
    return replace(study.without("large kept, updates", "large scaled gradual, updates"), name="open-question-conv-10k")


def small_conv() -> Task:
    """Two convolutions of 16 and 32 channels at stride 2, each with batch norm, and a linear map: 20,586 parameters."""
    images = tasks.get("fashion-mnist/c1")
    recipe = Recipe(64, lr=0.05, duration="20ep")
    return replace(images, name="fashion-mnist/small-conv", model=_network, recipe=recipe)


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 49, 10),
    )  # fmt: skip
