"""Curvature of a risk: operators known by their products, and what can be learnt from few of them."""

from largebatch.curvature._density import Density, density
from largebatch.curvature._ggn import GGN
from largebatch.curvature._hessian import Hessian
from largebatch.curvature._lanczos import Eigenpairs, lanczos
from largebatch.curvature._operator import CallableOperator, Operator, as_operator
from largebatch.curvature._sampling import sampling_error
from largebatch.curvature._trace import Trace, hutchpp, trace
from largebatch.curvature._tracker import LambdaMax

__all__ = [
    "GGN",
    "CallableOperator",
    "Density",
    "Eigenpairs",
    "Hessian",
    "LambdaMax",
    "Operator",
    "Trace",
    "as_operator",
    "density",
    "hutchpp",
    "lanczos",
    "sampling_error",
    "trace",
]
