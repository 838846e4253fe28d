"""The spectral density of an operator, by stochastic Lanczos quadrature over several probes.

Ghorbani, Krishnan and Xiao 2019 (arXiv 1901.10159), algorithm 1, after Golub and Welsch 1969: m Lanczos steps from a random
unit vector v give nodes θ_j and weights ω_j = (first entry of T's eigenvector)², and Σ_j ω_j·f(θ_j) is v'f(H)v exactly for
polynomials f up to degree 2m − 1. Over random v its mean is tr f(H)/n. The probes are independent, so the interval is
Student's t over them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from largebatch.core import progress
from largebatch.curvature._krylov import Krylov, random_direction
from largebatch.curvature._operator import as_operator
from largebatch.results import Estimate, mean_interval

__all__ = ["Density", "density"]

NOTE = "the interval is over probes: the bias of few Lanczos steps and the smoothing width are not in it"


@final
@dataclass(frozen=True)
class Density:
    """Quadrature nodes and weights of the eigenvalue distribution, one row for each probe.

    Args:
        nodes: (probes, steps) float64; a probe whose sequence ended early repeats its last node with weight 0.
        weights: (probes, steps) float64, each row sums to 1.
        dimension: n of the operator.
        products: with the operator.
        note: what the intervals leave out.
    """

    nodes: Tensor
    weights: Tensor
    dimension: int
    products: int
    note: str = NOTE

    def moment(self, power: int) -> Estimate:
        """tr(H^power)/n, with a 95 % t-interval over the probes. The trace is n times the first.

        Args:
            power: up to 2·steps − 1 the quadrature has no bias.
        """
        return mean_interval((self.weights * self.nodes.pow(power)).sum(dim=1).tolist())

    def pdf(self, grid: Tensor, width: float) -> tuple[Tensor, Tensor]:
        """The density smoothed by a Gaussian, and its standard error over the probes.

        Args:
            grid: (g,) where to evaluate it.
            width: the Gaussian's standard deviation, in units of the eigenvalues.

        Returns:
            Density per unit of eigenvalue and standard error (NaN for one probe), (g,) float64 each.

        Raises:
            ValueError: a width that is not positive.
        """
        if not width > 0:
            raise ValueError(f"width: expected a positive number, in units of the eigenvalues, got {width}")
        distances = (grid.double()[None, :, None] - self.nodes[:, None, :]) / width  # (probes, g, steps)
        bells = torch.exp(-distances.square() / 2) / (width * (2 * torch.pi) ** 0.5)
        curves = (bells * self.weights[:, None, :]).sum(dim=2)  # (probes, g)
        error = curves.std(dim=0) / len(curves) ** 0.5 if len(curves) > 1 else torch.full_like(curves[0], torch.nan)
        return curves.mean(dim=0), error


def density(operator: Any, *, steps: int = 40, probes: int = 4, seed: int = 0) -> Density:
    """The distribution of the eigenvalues.

    Args:
        operator: anything with `shape` and `@`.
        steps: Lanczos steps of each probe, one product each; with full re-orthogonalisation, so that no eigenvalue
            appears several times.
        probes: random vectors.
        seed: of the probes.

    Raises:
        ValueError: no steps or no probes.
    """
    if steps < 1 or probes < 1:
        raise ValueError(f"density: expected at least one step and one probe, got {steps} and {probes}")
    operator = as_operator(operator)
    length = min(steps, operator.shape[0])
    rows: list[tuple[Tensor, Tensor]] = []
    products = 0
    with progress("density", probes * length, "products") as bar:
        for probe in range(probes):
            krylov = Krylov(operator, random_direction(operator, seed, probe, 1), length)
            while krylov.steps < length and krylov.residual_norm > 0:
                krylov.step()
                bar.update()
            products += krylov.steps
            ritz = krylov.ritz()
            rows.append((ritz.values, ritz.coordinates[0].square()))
    return Density(_padded(rows, 0, length), _padded(rows, 1, length), operator.shape[0], products)


def _padded(rows: Sequence[tuple[Tensor, Tensor]], item: int, length: int) -> Tensor:
    """(probes, length): shorter rows are filled up by the last node, with weight 0."""
    filled = torch.zeros(len(rows), length, dtype=torch.float64)
    for row, pair in zip(filled, rows, strict=True):
        row[: len(pair[item])] = pair[item]
        if item == 0:
            row[len(pair[0]) :] = pair[0][-1]
    return filled
