"""Curvature of a risk: operators known by their products, and what can be learnt from few of them."""

from largebatch.curvature._ggn import GGN
from largebatch.curvature._hessian import Hessian
from largebatch.curvature._krylov import Eigenpairs, lanczos
from largebatch.curvature._operator import CallableOperator, Operator, as_operator
from largebatch.curvature._power import LambdaMax, TopEigenvalue, hessian_product, power_iteration

__all__ = [
    "GGN",
    "CallableOperator",
    "Eigenpairs",
    "Hessian",
    "LambdaMax",
    "Operator",
    "TopEigenvalue",
    "as_operator",
    "hessian_product",
    "lanczos",
    "power_iteration",
]
