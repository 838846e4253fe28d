"""How sharp a minimum is, by every measure in use: one registry."""

from largebatch.sharpness._cost import ExpectedCost, expected_cost
from largebatch.sharpness._registry import SHARPNESS, Kind, Options, resolve, sharpness, sharpness_all

__all__ = [
    "SHARPNESS",
    "ExpectedCost",
    "Kind",
    "Options",
    "expected_cost",
    "resolve",
    "sharpness",
    "sharpness_all",
]
