"""The update of a stack: the fused steps of torch's SGD, Adam and AdamW, by the functions that these classes call.

The classes would do the same, but the first optimizer of a process imports `torch._dynamo`: two seconds, in which many a
stack is trained.
"""

from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from largebatch.recipe import Recipe

__all__ = ["StackedUpdate"]


@final
class StackedUpdate:
    """Moments of the stack's two buffers, and the step that moves both.

    Args:
        weights: one number for each weight of each network, with its `.grad` in place.
        others: the same of norm and bias parameters, which the recipe's weight decay spares unless it says
            `decay_norm_and_bias`.
        recipe: its optimizer is sgd, adam or adamw.
    """

    def __init__(self, weights: Tensor, others: Tensor, recipe: Recipe):
        make = _sgd if recipe.optimizer == "sgd" else _adam
        decay = recipe.weight_decay
        self._steps = [make(weights, recipe, decay), make(others, recipe, decay if recipe.decay_norm_and_bias else 0.0)]

    def step(self, lr: float) -> None:
        """Move both buffers along their gradients."""
        for step in self._steps:
            step(lr=lr)


def _sgd(buffer: Tensor, recipe: Recipe, weight_decay: float) -> partial[None]:
    momenta: list[Tensor | None] = [None]  # filled at the first step
    return partial(
        sgd, [buffer], [_grad(buffer)], momenta, fused=True, weight_decay=weight_decay, momentum=recipe.momentum,
        dampening=0.0, nesterov=recipe.nesterov, maximize=False,
    )  # fmt: skip


def _adam(buffer: Tensor, recipe: Recipe, weight_decay: float) -> partial[None]:
    first, second, steps = torch.zeros_like(buffer), torch.zeros_like(buffer), torch.zeros((), dtype=torch.float32)
    unused: list[Any] = []
    return partial(
        adam, [buffer], [_grad(buffer)], [first], [second], unused, [steps], fused=True, amsgrad=False,
        beta1=recipe.beta1, beta2=recipe.beta2, eps=recipe.eps, weight_decay=weight_decay, maximize=False,
        decoupled_weight_decay=recipe.optimizer == "adamw",
    )  # fmt: skip


def _grad(buffer: Tensor) -> Tensor:
    assert buffer.grad is not None
    return buffer.grad
