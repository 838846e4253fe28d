"""The largest Hessian eigenvalue by power iteration, and an observer that tracks it through training.

v ← Hv/‖Hv‖ converges to the eigenvector of the largest |λ|; λ = v'Hv, with the residual ‖Hv − λv‖, within which an
eigenvalue of a symmetric H must lie. The Hessian product is the gradient of g'v (Pearlmutter 1994, Neural Computation 6).
A tracker starts from the last eigenvector, so a look costs a few products.
"""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from largebatch.core import EpochView, Request, Risk, View, flatten, generator, unflatten

__all__ = ["LambdaMax", "TopEigenvalue", "hessian_product", "power_iteration"]


@dataclass(frozen=True)
class TopEigenvalue:
    """The eigenvalue of largest magnitude: `value` ± `residual`."""

    value: float
    residual: float
    vector: Tensor  # (P,), unit norm
    products: int


def hessian_product(risk: Risk, vector: Tensor) -> Tensor:
    """∇²f(x)·vector, (P,), summed over all batches and ranks and divided once by the count."""
    product = torch.zeros_like(vector)
    counts = vector.new_zeros(1)
    directions = unflatten(vector, risk.parameters)
    with risk.measuring(), torch.enable_grad():
        for inputs, targets in risk.batches():
            value, count = risk.loss_sum(inputs, targets)
            grads = torch.autograd.grad(value, risk.parameters, create_graph=True, materialize_grads=True)
            along = torch.stack([(g * d).sum() for g, d in zip(grads, directions, strict=True)]).sum()
            if along.requires_grad:  # a loss that is linear in the parameters has no second derivative
                product += flatten(torch.autograd.grad(along, risk.parameters, materialize_grads=True))
            counts += count
    return risk.world.sum(product) / risk.world.sum(counts)


def power_iteration(
    risk: Risk, *, start: Tensor | None = None, seed: int = 0, tolerance: float = 1e-2, max_products: int = 100
) -> TopEigenvalue:
    """Iterate until the residual is at most `tolerance`·|λ|, or `max_products` are spent.

    Args:
        start: (P,), for example the vector of the last look; None: random, from `seed`.
    """
    vector = start
    if vector is None:
        like = flatten(risk.parameters).detach()
        vector = torch.randn(len(like), generator=generator(seed, "power"), dtype=like.dtype).to(like.device)
    vector = vector / vector.norm()
    value, residual, products = 0.0, float("inf"), 0
    while products < max_products and residual > tolerance * abs(value):
        image = hessian_product(risk, vector)
        products += 1
        value = float(vector @ image)
        residual = float((image - value * vector).norm())
        norm = image.norm()
        if norm == 0:
            break
        if residual > tolerance * abs(value):
            vector = image / norm
    return TopEigenvalue(value, residual, vector, products)


@final
class LambdaMax:
    """An observer that tracks λ_max of the training risk, warm-started.

    Args:
        every: updates between looks.
        max_products: the most a look may cost; each is two to four passes over the training data.
    """

    name = "lambda_max"

    def __init__(self, every: int, *, tolerance: float = 1e-2, max_products: int = 20):
        self._every = every
        self._tolerance = tolerance
        self._max_products = max_products
        self._vector: Tensor | None = None
        self.rows: list[dict[str, float]] = []
        """update, lambda_max, residual, sharpness_times_lr (η·λ_max: 2 is the edge of stability), products."""

    def wants(self, update: int) -> Request | None:
        """The risk, at every k-th update."""
        return Request(risk=True) if update % self._every == 0 else None

    def see(self, view: View) -> None:
        """Measure at the weights after the update."""
        assert view.risk is not None
        top = power_iteration(view.risk, start=self._vector, tolerance=self._tolerance, max_products=self._max_products)
        self._vector = top.vector
        row = {"update": view.update, "lambda_max": top.value, "residual": top.residual}
        self.rows.append(row | {"sharpness_times_lr": top.value * view.lr, "products": top.products})

    def see_epoch(self, view: EpochView) -> None:
        """Nothing."""

    def state_dict(self) -> dict[str, Any]:
        """The eigenvector and the rows so far."""
        return {"vector": self._vector, "rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the last eigenvector."""
        self._vector = state["vector"]
        self.rows = [dict(row) for row in state["rows"]]
