"""The functions of scipy that fits need, typed. scipy is imported in them: importing a room must cost nothing."""
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false

from collections.abc import Callable

import numpy as np

from largebatch.target._arrays import Floats

__all__ = ["chi2_quantile", "f_survival", "least", "log_normal_mass", "root"]


def log_normal_mass(low: Floats, high: Floats) -> Floats:
    """ln(Φ(high) − Φ(low)) without cancellation in the tails; the arrays broadcast."""
    from scipy.special import log_ndtr

    # Φ(b) − Φ(a) = Φ(−a) − Φ(−b): to the right of 0 the mirrored masses are the small ones.
    mirrored = low > 0
    upper = log_ndtr(np.where(mirrored, -low, high))
    lower = log_ndtr(np.where(mirrored, -high, low))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(lower == -np.inf, upper, upper + np.log1p(-np.exp(lower - upper)))


def chi2_quantile(degrees_of_freedom: float, probability: float) -> float:
    """x with P(χ² ≤ x) = probability."""
    from scipy.special import chdtri

    return float(chdtri(degrees_of_freedom, 1 - probability))


def f_survival(numerator: float, denominator: float, value: float) -> float:
    """P(F ≥ value) with these degrees of freedom."""
    from scipy.special import fdtrc

    return float(fdtrc(numerator, denominator, value))


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """A zero between two points where the signs differ (Brent 1973)."""
    from scipy.optimize import brentq

    return float(brentq(function, low, high, xtol=1e-10, rtol=1e-6))  # pyright: ignore[reportArgumentType]


def least(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one minimum has it, between two points (Brent 1973)."""
    from scipy.optimize import minimize_scalar

    result = minimize_scalar(function, bounds=(low, high), method="bounded", options={"xatol": 1e-5})
    return float(result.x)  # pyright: ignore[reportAttributeAccessIssue]
