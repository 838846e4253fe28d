"""Task: what to train. A model factory, data, and a loss that gives one value per example.

A per-example loss, never a mean: whoever aggregates knows the global count, a batch does not (Goyal et al. 2017,
arXiv 1706.02677, section 2.5, remark 3: "normalize the per-worker loss by total minibatch size kn").
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from largebatch.recipe import Recipe

__all__ = [
    "Data",
    "Loss",
    "Metric",
    "Task",
    "accuracy",
    "cross_entropy",
    "data_size",
    "token_cross_entropy",
    "total",
    "weigh",
]

Data = tuple[Tensor, Tensor] | Dataset[Any]
"""Resident `(inputs, targets)` with the samples along the first axis, or a map-style data set of such pairs."""

Loss = Callable[..., Tensor | tuple[Tensor, Tensor]]
"""`(outputs, targets) → values (n,)`, or `(values, weights)` of equal shape, for example per token, weight 0 = masked."""

Metric = Callable[[Tensor, Tensor], Tensor]
"""`(outputs, targets) → one value per example`, averaged over all samples."""


@dataclass(frozen=True)
class Task:
    """What to train.

    Args:
        name: how runs and tables call it.
        model: a factory without arguments. The initial weights depend on it and on the seed alone.
        train: the training data. Every epoch is one permutation of it.
        test: held out; looked at, never tuned on.
        loss: one value per example, or `(values, weights)`.
        metrics: more per-example figures, such as `{"accuracy": accuracy}`.
        validation: what is tuned is tuned on this.
        recipe: the hyper-parameters this task was tuned with, at their own batch size.
        source: text that identifies the definition (the task's file), part of a run's digest.
        origin: where `tasks.find` finds it again, the path of its file and its name; "" for a built-in one. Not part of the
            digest: files may move.
    """

    name: str
    model: Callable[[], nn.Module]
    train: Data
    test: Data
    loss: Loss
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    validation: Data | None = None
    recipe: Recipe | None = None
    source: str = ""
    origin: str = ""

    @property
    def held_out(self) -> Data:
        """What is watched during training: the validation split where there is one, else test."""
        return self.test if self.validation is None else self.validation


def data_size(data: Data) -> int:
    """Number of samples."""
    return len(data[0]) if isinstance(data, tuple) else len(data)  # pyright: ignore[reportArgumentType]


def cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each example. outputs: (n, classes) logits; targets: (n,) int64. Returns (n,)."""
    return F.cross_entropy(outputs, targets, reduction="none", label_smoothing=label_smoothing)


def token_cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each token and its weight; a target of -100 is masked, as everywhere in torch.

    outputs: (n, tokens, vocabulary) logits; targets: (n, tokens) int64. Returns values, weights: (n, tokens).
    """
    values = F.cross_entropy(outputs.transpose(1, 2), targets, reduction="none", label_smoothing=label_smoothing)
    return values, (targets != -100).to(values.dtype)


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the largest output is the target. outputs: (n, classes); targets: (n,). Returns (n,) float32."""
    return (outputs.argmax(dim=1) == targets).float()


def weigh(result: Tensor | tuple[Tensor, Tensor], n: int) -> tuple[Tensor, Tensor | None]:
    """What a loss or a metric returned for n examples, checked: (values, weights or None).

    Raises:
        ValueError: a mean instead of one value per example, or weights that do not match the values.
    """
    values, weights = result if isinstance(result, tuple) else (result, None)
    if values.dim() == 0:
        raise ValueError(
            f"expected one loss value per example, shape ({n},), got a scalar: the mean of a batch cannot be combined "
            'exactly over unequal batches or workers. Use reduction="none", as in largebatch.core.cross_entropy'
        )
    if len(values) != n or (weights is None and values.dim() != 1):
        raise ValueError(
            f"expected one loss value per example, shape ({n},), got {tuple(values.shape)}: sum over the other axes, "
            "or return (values, weights) of equal shape for a loss per token"
        )
    if weights is not None and weights.shape != values.shape:
        raise ValueError(
            f"expected weights of the values' shape {tuple(values.shape)}, got {tuple(weights.shape)}: "
            "return one weight per value, 0 where it is masked"
        )
    return values, weights


def total(values: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor | int]:
    """Weighted sum and count of per-example values: what batches and ranks add up."""
    if weights is None:
        return values.sum(), len(values)
    return torch.sum(values * weights), weights.sum()
