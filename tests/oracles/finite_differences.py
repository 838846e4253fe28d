"""Derivatives by central differences in float64: knows nothing of a formula or of autograd.

With step h the error is O(h^2) of the third derivative plus rounding / h; h = 1e-5 leaves about 1e-9 for values near 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

STEP = 1e-5


def gradient(function: Callable[[Tensor], float], point: Tensor) -> Tensor:
    """(p,) of a function of a (p,) float64 vector."""
    return torch.tensor(
        [(function(point + h) - function(point - h)) / (2 * STEP) for h in _steps(point)], dtype=torch.float64
    )


def jacobian(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """(q, p) of a function from (p,) to (q,)."""
    return torch.stack([(function(point + h) - function(point - h)) / (2 * STEP) for h in _steps(point)], dim=1)


def _steps(point: Tensor) -> Tensor:
    return STEP * torch.eye(len(point), dtype=torch.float64)
