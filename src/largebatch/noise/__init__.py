"""Gradient noise: how much of a batch's gradient is signal."""

from largebatch.noise._scale import NoiseScale, noise_and_signal

__all__ = ["NoiseScale", "noise_and_signal"]
