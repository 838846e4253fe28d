"""Per-example gradients as the parts of a batch: B_small = 1, the least there is, and the least error (Gray et al. 2024,
arXiv 2411.00999). They need no accumulation and no ranks, but a forward and most of a backward pass of their own.
"""

import torch
from torch import Tensor, nn

from largebatch.core import ExampleGradients, Loss, Partials, squared_norm, total, weigh

__all__ = ["example_partials"]


def example_partials(model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor) -> Partials:
    """The squared norm of every example's gradient and of their mean, at the present weights; `p.grad` is not touched.

    Args:
        model: in the mode in which it is trained.
        loss: one value per example.
        inputs, targets: (n, …), n ≥ 2.

    Raises:
        ValueError: layers that couple the examples, or a loss with weights, under which examples do not count alike.
    """
    named: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = ExampleGradients(model, named, inputs)
    with torch.enable_grad():
        values, weights = weigh(loss(gradients.outputs, targets), len(inputs))
        if weights is not None:
            raise ValueError(
                "loss: expected one value per example, got values with weights, of which each example has its own sum; "
                "use noise.watch with two accumulation steps"
            )
        (slopes,) = torch.autograd.grad(total(values, None)[0], gradients.outputs, retain_graph=True)
        whole = torch.autograd.grad(values.mean(), list(named.values()), retain_graph=True, allow_unused=True)
    norms = torch.stack(list(gradients.squared_norms(slopes).values())).sum(dim=0)  # (n,)
    counts = torch.ones(len(inputs), dtype=torch.float64, device=norms.device)
    return Partials(counts, norms.double(), squared_norm([g for g in whole if g is not None]).double())
