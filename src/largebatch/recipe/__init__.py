"""Hyper-parameters at a global batch size, and what must move when the batch does. No torch: numbers and texts."""

from largebatch.recipe._duration import Duration
from largebatch.recipe._recipe import Phase, Recipe
from largebatch.recipe._scaling import Change
from largebatch.recipe._schedule import Schedule, Warmup
from largebatch.recipe._timeline import Timeline

__all__ = ["Change", "Duration", "Phase", "Recipe", "Schedule", "Timeline", "Warmup"]
