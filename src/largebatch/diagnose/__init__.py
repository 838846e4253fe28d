"""Why does a large-batch model generalise worse? Measure, and judge from what was measured."""

from largebatch.diagnose._diagnosis import Diagnosis, DiagnosisCost
from largebatch.diagnose._evidence import Evidence, Row, RunRecord, Verdict
from largebatch.diagnose._explain import Inquiry, explain_gap, redo
from largebatch.diagnose._hypotheses import HYPOTHESES, judge
from largebatch.diagnose._measure import Plan
from largebatch.diagnose._runs import StoredRun, read_run
from largebatch.diagnose._sharpness_table import RunSharpness, SharpnessTable, Survey

__all__ = [
    "HYPOTHESES",
    "Diagnosis",
    "DiagnosisCost",
    "Evidence",
    "Inquiry",
    "Plan",
    "Row",
    "RunRecord",
    "RunSharpness",
    "SharpnessTable",
    "StoredRun",
    "Survey",
    "Verdict",
    "explain_gap",
    "judge",
    "read_run",
    "redo",
]
