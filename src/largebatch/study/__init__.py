"""Does it hold over seeds, and which remedy works: cells × seeds, trained on any executor, judged by `comparison`."""

from largebatch.comparison import (
    Cell,
    CellRow,
    Contrast,
    ContrastRow,
    LookRow,
    MeasureRow,
    Measures,
    PathRow,
    PlaneRow,
    Published,
    RunRow,
    SpectrumRow,
    Study,
    StudyResult,
    Subject,
    curves,
    measure_name,
    read_study,
)
from largebatch.study._cost import CellCost, StudyCost, study_cost
from largebatch.study._executors import open_executor
from largebatch.study._open_question import open_question
from largebatch.study._runner import run_study
from largebatch.study._studies import STUDIES, find_study
from largebatch.study._tune import tune_rates

__all__ = [
    "STUDIES",
    "Cell",
    "CellCost",
    "CellRow",
    "Contrast",
    "ContrastRow",
    "LookRow",
    "MeasureRow",
    "Measures",
    "PathRow",
    "PlaneRow",
    "Published",
    "RunRow",
    "SpectrumRow",
    "Study",
    "StudyCost",
    "StudyResult",
    "Subject",
    "curves",
    "find_study",
    "measure_name",
    "open_executor",
    "open_question",
    "read_study",
    "run_study",
    "study_cost",
    "tune_rates",
]
