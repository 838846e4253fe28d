"""Whatever must train in order to measure."""

from largebatch.study._cost import CellCost, StudyCost, study_cost
from largebatch.study._design import Cell, Contrast, Measures, Study
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
from largebatch.study._open_question import open_question
from largebatch.study._runner import run_study
from largebatch.study._studies import STUDIES, find_study
from largebatch.study._subject import Subject

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
    "RunRow",
    "SpectrumRow",
    "Study",
    "StudyCost",
    "StudyResult",
    "Subject",
    "curves",
    "find_study",
    "open_executor",
    "open_question",
    "read_study",
    "run_study",
    "study_cost",
]
