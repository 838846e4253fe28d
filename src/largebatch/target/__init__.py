"""How many samples and updates a target costs at each batch: the hyperbola, and its fit to runs. No torch."""

from largebatch.target._fit import HyperbolaFit, fit_hyperbola
from largebatch.target._hyperbola import Hyperbola, SamplesToTarget, samples_to_target, updates_to_target
from largebatch.target._seed_noise import BatchRuns

__all__ = [
    "BatchRuns",
    "Hyperbola",
    "HyperbolaFit",
    "SamplesToTarget",
    "fit_hyperbola",
    "samples_to_target",
    "updates_to_target",
]
