"""Gradient noise: how much of a batch's gradient is signal."""

from largebatch.noise._estimate import NoiseEstimate
from largebatch.noise._examples import example_partials
from largebatch.noise._precondition import preconditioner_roots, weighted_squared_norm
from largebatch.noise._scale import NoiseScale, noise_and_signal
from largebatch.noise._watch import Watch

__all__ = [
    "NoiseEstimate",
    "NoiseScale",
    "Watch",
    "example_partials",
    "noise_and_signal",
    "preconditioner_roots",
    "weighted_squared_norm",
]
