"""What a study asks, as cells and contrasts, and what its runs answer: intervals, tests, sentences."""

from largebatch.comparison._answers import contrast_sentences, open_question_answer
from largebatch.comparison._compare import judge
from largebatch.comparison._design import Cell, Contrast, Measures, Published, Study
from largebatch.comparison._findings import (
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
from largebatch.comparison._names import measure_name
from largebatch.comparison._subject import Subject
from largebatch.comparison._text import published_of

__all__ = [
    "Cell",
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
    "StudyResult",
    "Subject",
    "contrast_sentences",
    "curves",
    "judge",
    "measure_name",
    "open_question_answer",
    "published_of",
    "read_study",
]
