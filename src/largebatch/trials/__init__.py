"""Training in order to measure: branches from a checkpoint, sweeps over batches, timed updates."""

from largebatch.trials._branches import Branch, Branches, branch_batches
from largebatch.trials._routes import ProbeCost, ProbePlan, RouteCost, probe_cost, run_probe
from largebatch.trials._step_times import HeldOut, StepMeasurement, measure_steps
from largebatch.trials._sweep import Sweep, Trial, sweep_batches

__all__ = [
    "Branch",
    "Branches",
    "HeldOut",
    "ProbeCost",
    "ProbePlan",
    "RouteCost",
    "StepMeasurement",
    "Sweep",
    "Trial",
    "branch_batches",
    "measure_steps",
    "probe_cost",
    "run_probe",
    "sweep_batches",
]
