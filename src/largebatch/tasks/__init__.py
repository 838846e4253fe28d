"""What to train: built-in tasks by name, a user's own by path, and synthetic ones that carry their exact answers."""

from largebatch.tasks._gpt import GPT
from largebatch.tasks._images import ImageFolder
from largebatch.tasks._keskar import c1, c2, digits_mlp, f1, f2
from largebatch.tasks._load import find, load
from largebatch.tasks._problem import Problem
from largebatch.tasks._quadratic import NoisyQuadratic
from largebatch.tasks._registry import TaskRow, available, get
from largebatch.tasks._regression import LinearRegression, LogisticRegression, SoftmaxRegression
from largebatch.tasks._resnet import resnet20, resnet50

__all__ = [
    "GPT",
    "ImageFolder",
    "LinearRegression",
    "LogisticRegression",
    "NoisyQuadratic",
    "Problem",
    "SoftmaxRegression",
    "TaskRow",
    "available",
    "c1",
    "c2",
    "digits_mlp",
    "f1",
    "f2",
    "find",
    "get",
    "load",
    "resnet20",
    "resnet50",
]
