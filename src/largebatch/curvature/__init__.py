"""Curvature of a risk."""

from largebatch.curvature._power import LambdaMax, TopEigenvalue, hessian_product, power_iteration

__all__ = ["LambdaMax", "TopEigenvalue", "hessian_product", "power_iteration"]
