"""Sharpness by curvature: the largest eigenvalue of the Hessian, and its trace (`largebatch.curvature`).

Both are those of the mean loss f at x. A gradient step of length η grows along an eigenvector where η·λ_max > 2, and the
trace is the sum over all directions, ½σ²·tr H the mean rise of the loss under noise of variance σ².
"""

from typing import Literal

from largebatch import curvature
from largebatch.core import Risk
from largebatch.sharpness._search import Bar, Finding, require_finite

__all__ = ["lambda_max", "trace"]


def lambda_max(risk: Risk, seed: int, bar: Bar, *, tolerance: float = 1e-3, max_products: int = 200) -> Finding:
    """The largest eigenvalue, by Lanczos.

    Args:
        tolerance: of its error bound, relative to it.
        max_products: Hessian products, at most.
    """
    loss = _loss(risk, bar)
    found = curvature.lanczos(curvature.Hessian(risk), 1, tolerance=tolerance, max_products=max_products, seed=seed)
    value, bound = float(found.values[0]), float(found.bounds[0])
    note = "an eigenvalue lies within the bound"
    if not found.converged:
        short = f"{found.products} products did not reach the tolerance, take more max_products"
        note = f"{note}, not necessarily the largest: {short}"
    return Finding(value, bound, value - bound, value + bound, {"loss": loss, "products": found.products}, note)


def trace(
    risk: Risk, seed: int, bar: Bar, *, method: Literal["auto", "exact", "remainder", "hutch++"] = "auto",
    products: int = 30,
) -> Finding:  # fmt: skip
    """The sum of the eigenvalues: exact where the network is piecewise linear, else estimated with its 95 % interval.

    Args:
        method: as in `curvature.trace`.
        products: Hessian products, where it is estimated.
    """
    loss = _loss(risk, bar)
    found = curvature.trace(risk, method=method, products=products, seed=seed)
    details = {"loss": loss, "products": float(found.products)}
    return Finding(found.value, found.stderr, found.low, found.high, details, f"by {found.method}: {found.note}")


def _loss(risk: Risk, bar: Bar) -> float:
    loss = risk.value()
    bar.update(1)
    require_finite(loss)
    return loss
