"""What N workers cost: seconds of an update on N workers, and with the samples to a target (room `target`) a plan.

No torch: numbers only, so that a plan can be made anywhere.
"""

from largebatch.plan._cost import estimate
from largebatch.plan._goyal import goyal
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
from largebatch.plan._picture import picture
from largebatch.plan._plan import Plan, PlanRow, doublings
from largebatch.plan._run import RunCost, read_run_cost
from largebatch.plan._time import StepTime, expected_maximum

__all__ = [
    "ALGORITHMS",
    "ComputeFit",
    "Link",
    "Network",
    "NetworkFit",
    "OverlapFit",
    "Plan",
    "PlanRow",
    "RunCost",
    "StepTime",
    "all_reduce_counts",
    "doublings",
    "estimate",
    "expected_maximum",
    "fit_compute",
    "fit_network",
    "fit_overlap",
    "goyal",
    "picture",
    "read_run_cost",
    "seconds_per_update",
]
