"""Metric 2.1, the sharpness of Keskar et al. 2017 (arXiv 1609.04836), by their search and by a better one.

    C_ε = { z ∈ R^p : |z_i| ≤ ε(|(A⁺x)_i| + 1) },   φ = 100·( max over z ∈ C_ε of f(x + Az) − f(x) ) / (1 + f(x))

A is the identity, or P × 100 and random (`_columns.py`). f is the whole training loss. They maximise by 10 iterations of
L-BFGS-B, at ε = 1e-3 and 5e-4, on batch statistics of 5,000 samples. φ is not the loss's curvature in other units: 1 + f
makes it depend on the loss's scale, and the box on that of the weights (Dinh et al. 2017, arXiv 1703.04933).

What the paper leaves open are options: `start` (at an exact minimum the gradient vanishes in the centre of the box) and
`columns`. SciPy's tolerance on the loss is off: the gain is of order ε², which its default takes for convergence.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from largebatch.core import Risk, generator
from largebatch.sharpness._ascent import sign_ascent
from largebatch.sharpness._ball import Ball
from largebatch.sharpness._columns import RandomColumns
from largebatch.sharpness._search import Bar, Finding, Search, searching

__all__ = ["metric_2_1", "metric_2_1_ascent", "metric_2_1_subspace"]

Columns = Literal["normalised", "raw"]
Start = Literal["uniform", "corner", "centre"]


def metric_2_1(
    risk: Risk, seed: int, bar: Bar, *, epsilon: float = 1e-3, iterations: int = 10, corrections: int = 10,
    start: Start = "uniform",
) -> Finding:  # fmt: skip
    """In the full space, by L-BFGS-B.

    Args:
        epsilon: ε, of the box.
        iterations: of L-BFGS-B, each of one or more evaluations.
        corrections: pairs of vectors that L-BFGS-B keeps; with 10 iterations, 10 are all there are.
        start: a point drawn from the box, a random corner of it, or x itself.
    """
    with searching(risk, bar) as search:
        box = _box(search, epsilon, None)
        _lbfgsb(search, box, iterations, corrections, _start(start, box.scale, seed))
    return _phi(search, {"epsilon": epsilon})


def metric_2_1_subspace(
    risk: Risk, seed: int, bar: Bar, *, epsilon: float = 1e-3, iterations: int = 10, corrections: int = 10,
    start: Start = "uniform", subspace: int = 100, columns: Columns = "normalised",
) -> Finding:  # fmt: skip
    """In a random subspace, by L-BFGS-B.

    Args:
        epsilon: ε, of the box.
        iterations: of L-BFGS-B.
        corrections: pairs of vectors that L-BFGS-B keeps.
        start: as in the full space.
        subspace: p, its dimension.
        columns: of A: of unit length, or raw, with entries of unit variance. Raw columns are √P times as long, and so
            are the displacements.
    """
    with searching(risk, bar) as search:
        box = _box(search, epsilon, _columns(search, subspace, columns, seed))
        _lbfgsb(search, box, iterations, corrections, _start(start, box.scale, seed))
    return _phi(search, {"epsilon": epsilon, "subspace": subspace})


def metric_2_1_ascent(
    risk: Risk, seed: int, bar: Bar, *, epsilon: float = 1e-3, iterations: int = 10, subspace: int | None = None,
    columns: Columns = "normalised",
) -> Finding:  # fmt: skip
    """In the full space or a random subspace, by sign ascent.

    Args:
        epsilon: ε, of the box.
        iterations: points of the box that are tried, one gradient each.
        subspace: p; None for the full space.
        columns: as in the subspace metric.
    """
    with searching(risk, bar) as search:
        matrix = None if subspace is None else _columns(search, subspace, columns, seed)
        sign_ascent(search, _box(search, epsilon, matrix, seed), iterations)
    return _phi(search, {"epsilon": epsilon} | ({} if subspace is None else {"subspace": subspace}))


def _columns(search: Search, subspace: int, columns: Columns, seed: int) -> RandomColumns:
    return RandomColumns(search.origin, subspace, normalised=columns == "normalised", seed=seed)


def _box(search: Search, epsilon: float, columns: RandomColumns | None, seed: int = 0) -> Ball:
    """C_ε as a ball in the maximum norm.

    Raises:
        ValueError: a loss of −1 or below, for which φ has no meaning.
    """
    if search.loss <= -1:
        raise ValueError(
            f"loss: Metric 2.1 divides by 1 + f and expects f > -1, got {search.loss:.4g}; use a kind that does not, such "
            "as adaptive_linf, or add a constant to the loss"
        )
    coordinates = search.origin if columns is None else columns.coordinates(search.origin)
    return Ball("inf", epsilon * (coordinates.abs() + 1), columns, seed)


def _phi(search: Search, details: Mapping[str, float]) -> Finding:
    return search.finding(100 * search.gain / (1 + search.loss), details)


def _start(start: Start, half_widths: Tensor, seed: int) -> Tensor:
    """z (n,) float64, in the box."""
    share = 2 * torch.rand(len(half_widths), generator=generator(seed, "metric 2.1"), dtype=torch.float64) - 1
    chosen = {"uniform": share, "corner": share.sign(), "centre": torch.zeros_like(share)}[start]
    return chosen * half_widths.double().cpu()


def _lbfgsb(search: Search, box: Ball, iterations: int, corrections: int, start: Tensor) -> None:
    from scipy.optimize import Bounds, minimize  # pyright: ignore[reportMissingTypeStubs]

    def negated(z: "np.ndarray[Any, Any]") -> "tuple[float, np.ndarray[Any, Any]]":
        """−f and −∇f by z: SciPy minimises, and a sign forgotten in either stops its line search at once."""
        value, gradient = search.value_and_gradient(box.displacement(torch.from_numpy(z).to(box.scale)))
        return -value, -box.slope(gradient).double().cpu().numpy()

    half_widths = box.scale.double().cpu().numpy()
    bounds = Bounds(-half_widths, half_widths)  # pyright: ignore[reportArgumentType]
    options = {"maxiter": iterations, "maxcor": corrections, "ftol": 0.0, "gtol": 0.0}
    found = minimize(negated, start.numpy(), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    if found.status == 2:
        search.notes.append(f"L-BFGS-B gave up after {found.nit} of {iterations} iterations: {found.message}")
