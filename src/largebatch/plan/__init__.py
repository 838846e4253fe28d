"""What N workers cost: samples to a target at each batch, seconds of an update on N workers, a plan from both.

No torch: numbers only, so that a plan can be made anywhere.
"""

from largebatch.plan._cost import estimate
from largebatch.plan._goyal import goyal
from largebatch.plan._hyperbola import Hyperbola, SamplesToTarget, samples_to_target, updates_to_target
from largebatch.plan._measured import (
    ComputeFit,
    NetworkFit,
    OverlapFit,
    fit_compute,
    fit_network,
    fit_overlap,
    seconds_per_update,
)
from largebatch.plan._network import ALGORITHMS, Link, Network, all_reduce_counts
from largebatch.plan._plan import Plan, PlanRow, doublings
from largebatch.plan._seed_noise import BatchRuns
from largebatch.plan._steps import HyperbolaFit, fit_hyperbola
from largebatch.plan._time import StepTime, expected_maximum

__all__ = [
    "ALGORITHMS",
    "BatchRuns",
    "ComputeFit",
    "Hyperbola",
    "HyperbolaFit",
    "Link",
    "Network",
    "NetworkFit",
    "OverlapFit",
    "Plan",
    "PlanRow",
    "SamplesToTarget",
    "StepTime",
    "all_reduce_counts",
    "doublings",
    "estimate",
    "expected_maximum",
    "fit_compute",
    "fit_hyperbola",
    "fit_network",
    "fit_overlap",
    "goyal",
    "samples_to_target",
    "seconds_per_update",
    "updates_to_target",
]
