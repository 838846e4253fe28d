"""Gradients as Adam sees them: each entry divided by √(√v̂ + ε), so that squared norms become g′P g, P = 1/(√v̂ + ε).

Adam's step is P·m̂, which is plain descent in the coordinates y = P^(−1/2)·x, whose gradient is P^(1/2)·g. The noise scale
there is tr(PΣ)/G′PG: McCandlish et al. 2018 (arXiv 1812.06162) measure it of raw gradients and give no such variant.
It counts v̂, which moves slowly, as constant, and leaves momentum out, as everywhere here.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["preconditioner_roots", "weighted_squared_norm"]


def preconditioner_roots(optimizer: Any, parameters: Sequence[Tensor]) -> list[Tensor] | None:
    """P^(1/2) of each parameter, shaped as it; None before the first step, or where an optimiser keeps no second moment.

    Args:
        optimizer: Adam, AdamW, LAMB or another with "exp_avg_sq" and "step" in its state.
        parameters: those wanted, in this order.
    """
    settings = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    roots: list[Tensor] = []
    for p in parameters:
        state = optimizer.state.get(p, {})
        if "exp_avg_sq" not in state:
            return None
        group = settings[id(p)]
        correction = 1 - group["betas"][1] ** float(state["step"])
        roots.append(state["exp_avg_sq"].div(correction).sqrt_().add_(group["eps"]).rsqrt_())
    return roots


def weighted_squared_norm(tensors: Sequence[Tensor], roots: Sequence[Tensor] | None) -> Tensor:
    """Σ (root·entry)², 0-D float64; without roots the plain squared norm."""
    scaled = list(tensors) if roots is None else torch._foreach_mul(list(tensors), list(roots))
    return torch.stack(torch._foreach_norm(scaled)).double().square().sum()
