"""How far the curvature of some samples is from that of all: the standard error of v'Hv over blocks of samples.

With h_b the sum over block b of v'∇²l_i·v and w_b its weight, v'Hv = Σh_b/Σw_b is a ratio of sums over B blocks drawn at
random (Cochran 1977, *Sampling Techniques*, section 6.4):

    stderr² = (1 − n/N) · B/(B − 1) · Σ_b (h_b − v'Hv·w_b)² / (Σ_b w_b)²,

n samples of N, where the factor 1 − n/N is 1 for data that stand for an unbounded population. For an eigenvector v this is
the error of the eigenvalue itself, to first order.
"""

import math

import torch
from torch import Tensor

from largebatch.core import Risk, unflatten
from largebatch.curvature._graphs import twice_differentiable

__all__ = ["sampling_error"]

BLOCKS = 32


def sampling_error(risk: Risk, vector: Tensor, *, population: int | None = None) -> float:
    """Standard error over samples of v'Hv, at the cost of one product without kept graphs.

    Args:
        vector: v, (P,), unit norm for an eigenvalue's error.
        population: N, where the risk is a subset of that many samples and their curvature is what is wanted; None: the
            curvature of the distribution from which the samples were drawn.

    Raises:
        ValueError: fewer than two blocks, so that nothing varies; a population smaller than the sample.
    """
    if population is not None and population < risk.samples:
        raise ValueError(f"population: expected at least the {risk.samples} samples of the risk, got {population}")
    sums = risk.world.gather(_blocks(risk, vector).flatten()).reshape(-1, 2)  # h_b, w_b
    count = len(sums)
    if count < 2:
        raise ValueError(
            f"sampling error: expected at least 2 blocks of samples, got {count}: use more samples, or with batch "
            "statistics a smaller batch_size"
        )
    curvatures, weights = sums.T
    mean = curvatures.sum() / weights.sum()
    spread = (curvatures - mean * weights).square().sum() * count / (count - 1)
    left_out = 1.0 if population is None else 1.0 - risk.samples / population
    return math.sqrt(left_out * float(spread)) / float(weights.sum())


def _blocks(risk: Risk, vector: Tensor) -> Tensor:
    """This rank's h_b and w_b, (blocks, 2) float64."""
    directions = unflatten(vector.to(device=risk.device, dtype=risk.dtype), risk.parameters)
    rows: list[Tensor] = []
    risk.passes += 3.0
    with risk.measuring(), twice_differentiable():
        for inputs, targets in risk.batches():
            # With batch statistics a batch is the smallest unit that has a curvature.
            size = len(inputs) if risk.batch_norm == "batch" else max(1, -(-risk.samples // BLOCKS))
            for x, y in zip(inputs.split(size), targets.split(size), strict=True):
                value, weight = risk.loss_sum(x, y)
                rows.append(torch.stack([_along(value, risk.parameters, directions), _number(weight, risk.device)]))
    return torch.stack(rows) if rows else torch.zeros(0, 2, dtype=torch.float64, device=risk.device)


def _along(value: Tensor, variables: list[Tensor], directions: list[Tensor]) -> Tensor:
    """v'(∇²value)v, 0-D float64."""
    grads = torch.autograd.grad(value, variables, create_graph=True, materialize_grads=True)
    slope = torch.stack([(g * d).sum() for g, d in zip(grads, directions, strict=True)]).sum()
    if not slope.requires_grad:  # a loss that is linear in the parameters
        return torch.zeros((), dtype=torch.float64, device=value.device)
    images = torch.autograd.grad(slope, variables, materialize_grads=True)
    return torch.stack([(i * d).sum(dtype=torch.float64) for i, d in zip(images, directions, strict=True)]).sum()


def _number(weight: Tensor | int, device: torch.device) -> Tensor:
    return torch.as_tensor(weight, dtype=torch.float64, device=device)
