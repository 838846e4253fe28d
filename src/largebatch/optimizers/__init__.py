"""LARS, LAMB, SAM and proximal steps beside the optimizers of torch, and the scheduler of a recipe for any loop."""

from largebatch.optimizers._layerwise import LAMB, LARS
from largebatch.optimizers._multipass import SAM, Proximal
from largebatch.optimizers._optim import build_optimizer, load_moments
from largebatch.optimizers._scheduler import RecipeScheduler, build_scheduler

__all__ = [
    "LAMB",
    "LARS",
    "SAM",
    "Proximal",
    "RecipeScheduler",
    "build_optimizer",
    "build_scheduler",
    "load_moments",
]
