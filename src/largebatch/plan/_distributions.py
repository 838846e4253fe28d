"""The functions of scipy that plans need, typed. scipy is imported in them: importing a room must cost nothing."""
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from largebatch.plan._arrays import Floats

__all__ = ["harmonic_number", "least_squares", "normal_quantile"]


def normal_quantile(probability: ArrayLike) -> Floats:
    """Of the standard Normal."""
    from scipy.special import ndtri

    return np.asarray(ndtri(probability), np.float64)


def harmonic_number(n: Floats) -> Floats:
    """1 + 1/2 + … + 1/n."""
    from scipy.special import digamma

    return np.asarray(digamma(n + 1) + np.euler_gamma, np.float64)


def least_squares(
    residuals: Callable[[Floats], Floats], start: Floats, bounds: tuple[float, float]
) -> tuple[Floats, Floats]:
    """The numbers within bounds with the least sum of squared residuals, (k,), and the Jacobian there, (n, k)."""
    from scipy import optimize

    result = optimize.least_squares(residuals, start, bounds=bounds, xtol=1e-12, ftol=1e-12, gtol=1e-12)
    return np.asarray(result.x, np.float64), np.asarray(result.jac, np.float64)
