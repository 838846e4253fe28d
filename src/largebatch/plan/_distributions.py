"""The functions of scipy that plans need, typed. scipy is imported in them: importing a room must cost nothing."""
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false

from collections.abc import Callable
from typing import overload

import numpy as np
from numpy.typing import ArrayLike

from largebatch.plan._arrays import Floats

__all__ = [
    "chi2_quantile",
    "f_survival",
    "harmonic_number",
    "least",
    "least_squares",
    "log_normal_mass",
    "normal_quantile",
    "root",
    "student_quantile",
]


def log_normal_mass(low: Floats, high: Floats) -> Floats:
    """ln(Φ(high) − Φ(low)) without cancellation in the tails; the arrays broadcast."""
    from scipy.special import log_ndtr

    # Φ(b) − Φ(a) = Φ(−a) − Φ(−b): to the right of 0 the mirrored masses are the small ones.
    mirrored = low > 0
    upper = log_ndtr(np.where(mirrored, -low, high))
    lower = log_ndtr(np.where(mirrored, -high, low))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(lower == -np.inf, upper, upper + np.log1p(-np.exp(lower - upper)))


def normal_quantile(probability: ArrayLike) -> Floats:
    """Of the standard Normal."""
    from scipy.special import ndtri

    return np.asarray(ndtri(probability), np.float64)


@overload
def student_quantile(degrees_of_freedom: float, level: float) -> float: ...


@overload
def student_quantile(degrees_of_freedom: Floats, level: float) -> Floats: ...


def student_quantile(degrees_of_freedom: float | Floats, level: float) -> float | Floats:
    """t with P(|T| ≤ t) = level, shaped like the degrees of freedom; infinitely many are the Normal."""
    from scipy.special import ndtri, stdtrit

    probability = (1 + level) / 2
    t = np.where(np.isinf(degrees_of_freedom), ndtri(probability), stdtrit(degrees_of_freedom, probability))
    return t if isinstance(degrees_of_freedom, np.ndarray) else float(t)


def chi2_quantile(degrees_of_freedom: float, probability: float) -> float:
    """x with P(χ² ≤ x) = probability."""
    from scipy.special import chdtri

    return float(chdtri(degrees_of_freedom, 1 - probability))


def f_survival(numerator: float, denominator: float, value: float) -> float:
    """P(F ≥ value) with these degrees of freedom."""
    from scipy.special import fdtrc

    return float(fdtrc(numerator, denominator, value))


def harmonic_number(n: Floats) -> Floats:
    """1 + 1/2 + … + 1/n."""
    from scipy.special import digamma

    return np.asarray(digamma(n + 1) + np.euler_gamma, np.float64)


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """A zero between two points where the signs differ (Brent 1973)."""
    from scipy.optimize import brentq

    return float(brentq(function, low, high, xtol=1e-10, rtol=1e-6))  # pyright: ignore[reportArgumentType]


def least(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one minimum has it, between two points (Brent 1973)."""
    from scipy.optimize import minimize_scalar

    result = minimize_scalar(function, bounds=(low, high), method="bounded", options={"xatol": 1e-5})
    return float(result.x)  # pyright: ignore[reportAttributeAccessIssue]


def least_squares(
    residuals: Callable[[Floats], Floats], start: Floats, bounds: tuple[float, float]
) -> tuple[Floats, Floats]:
    """The numbers within bounds with the least sum of squared residuals, (k,), and the Jacobian there, (n, k)."""
    from scipy import optimize

    result = optimize.least_squares(residuals, start, bounds=bounds, xtol=1e-12, ftol=1e-12, gtol=1e-12)
    return np.asarray(result.x, np.float64), np.asarray(result.jac, np.float64)
