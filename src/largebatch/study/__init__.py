"""Does it hold over seeds, and which remedy works: cells × seeds, trained on any executor, judged by `comparison`."""

from largebatch.comparison import Cell, Contrast, Measures, Published, Study, StudyResult, Subject, read_study
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
    "Contrast",
    "Measures",
    "Published",
    "Study",
    "StudyCost",
    "StudyResult",
    "Subject",
    "find_study",
    "open_executor",
    "open_question",
    "read_study",
    "run_study",
    "study_cost",
    "tune_rates",
]
