"""Whatever must train in order to measure."""

from largebatch.study._branches import Branch, Branches, branch_batches
from largebatch.study._cost import CellCost, StudyCost, study_cost
from largebatch.study._design import FEWEST_SEEDS, Cell, Contrast, Measures, Published, Study
from largebatch.study._executors import open_executor
from largebatch.study._findings import (
    CellRow,
    ContrastRow,
    LookRow,
    MeasureRow,
    PathRow,
    PlaneRow,
    RunRow,
    SpectrumRow,
    StudyResult,
    curves,
    read_study,
)
from largebatch.study._names import measure_name
from largebatch.study._open_question import open_question
from largebatch.study._probe import ProbeCost, ProbePlan, RouteCost, probe_cost, run_probe
from largebatch.study._runner import run_study
from largebatch.study._step_times import HeldOut, StepMeasurement, measure_steps
from largebatch.study._studies import STUDIES, find_study
from largebatch.study._subject import Subject
from largebatch.study._sweep import Sweep, Trial, sweep_batches
from largebatch.study._text import published_of
from largebatch.study._tune import tune_rates

__all__ = [
    "FEWEST_SEEDS",
    "STUDIES",
    "Branch",
    "Branches",
    "Cell",
    "CellCost",
    "CellRow",
    "Contrast",
    "ContrastRow",
    "HeldOut",
    "LookRow",
    "MeasureRow",
    "Measures",
    "PathRow",
    "PlaneRow",
    "ProbeCost",
    "ProbePlan",
    "Published",
    "RouteCost",
    "RunRow",
    "SpectrumRow",
    "StepMeasurement",
    "Study",
    "StudyCost",
    "StudyResult",
    "Subject",
    "Sweep",
    "Trial",
    "branch_batches",
    "curves",
    "find_study",
    "measure_name",
    "measure_steps",
    "open_executor",
    "open_question",
    "probe_cost",
    "published_of",
    "read_study",
    "run_probe",
    "run_study",
    "study_cost",
    "sweep_batches",
    "tune_rates",
]
