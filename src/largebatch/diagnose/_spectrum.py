"""The spectrum of the Hessian at a model's weights: both ends with bounds, the trace, and the density between them.

Is it sharp (largest eigenvalue, trace)? Is it a saddle (smallest against largest)? Every figure comes with its own
uncertainty: error bounds of Lanczos, a t-interval over random probes, and the sampling error of the data themselves.
"""

import math
from dataclasses import dataclass
from typing import final

import torch

from largebatch.core import Measured, Risk, stopwatch
from largebatch.curvature import Density, Hessian, Trace, density, lanczos, sampling_error, trace

__all__ = ["Spectrum", "spectrum"]


@final
@dataclass(frozen=True)
class Spectrum(Measured):
    """The Hessian's eigenvalues at one set of weights.

    Args:
        top: the k largest eigenvalues, the largest first.
        top_bounds: an eigenvalue lies within value ± bound.
        bottom: the smallest eigenvalues, the smallest first.
        bottom_bounds: their bounds.
        converged: whether all bounds reached the tolerance.
        sampling_error: standard error over samples of the largest eigenvalue; NaN where there are too few samples.
        trace: with its interval; None where it was not asked for.
        density_nodes, density_weights: quadrature of the eigenvalue distribution, one row for each probe; empty where it was
            not asked for.
        dimension: number of variables.
        seed: of whatever was drawn.
    """

    top: tuple[float, ...]
    top_bounds: tuple[float, ...]
    bottom: tuple[float, ...]
    bottom_bounds: tuple[float, ...]
    converged: bool
    sampling_error: float
    trace: Trace | None
    density_nodes: tuple[tuple[float, ...], ...]
    density_weights: tuple[tuple[float, ...], ...]
    dimension: int
    seed: int

    @property
    def density(self) -> Density | None:
        """The distribution of the eigenvalues, to be smoothed and averaged; None where it was not asked for."""
        if not self.density_nodes:
            return None
        nodes, weights = torch.tensor(self.density_nodes).double(), torch.tensor(self.density_weights).double()
        return Density(nodes, weights, self.dimension, nodes.numel())


def spectrum(
    risk: Risk,
    k: int = 5,
    *,
    tolerance: float = 1e-3,
    max_products: int = 200,
    with_trace: bool = True,
    steps: int = 40,
    probes: int = 0,
    population: int | None = None,
    seed: int = 0,
) -> Spectrum:
    """Both ends of the Hessian's spectrum, its trace and, if probes are given, its density.

    Args:
        k: eigenvalues at the top, fewer than there are variables; at the bottom it is one, the most negative.
        tolerance: relative error bound of the eigenvalues; see `curvature.lanczos`.
        max_products: the most that the eigenvalues may cost.
        with_trace: also the trace.
        steps, probes: of the density, steps · probes products; no probes, no density.
        population: where the risk is a subset of so many samples whose curvature is wanted; see `curvature.sampling_error`.
        seed: of whatever is drawn.

    Raises:
        ValueError: k that does not fit the number of variables.
    """
    with stopwatch(risk) as watch:
        hessian = Hessian(risk)
        pairs = lanczos(hessian, (k, 1), which="both", tolerance=tolerance, max_products=max_products, seed=seed)
        total = trace(risk, seed=seed) if with_trace else None
        bulk = density(hessian, steps=steps, probes=probes, seed=seed) if probes else None
        error = sampling_error(risk, pairs.vectors[0], population=population) if risk.samples > 1 else math.nan
    values, bounds = pairs.values.tolist(), pairs.bounds.tolist()
    return Spectrum(
        top=tuple(values[:-1]),
        top_bounds=tuple(bounds[:-1]),
        bottom=tuple(values[-1:]),
        bottom_bounds=tuple(bounds[-1:]),
        converged=pairs.converged,
        sampling_error=error,
        trace=total,
        density_nodes=tuple(map(tuple, bulk.nodes.tolist())) if bulk else (),
        density_weights=tuple(map(tuple, bulk.weights.tolist())) if bulk else (),
        dimension=risk.dimension,
        seed=seed,
        **watch.conditions(),
        note="" if pairs.converged else f"not converged in {pairs.products} products: the bounds say how far it came",
    )
