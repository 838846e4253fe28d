"""Why does a large-batch model generalise worse? Measure, and judge from what was measured."""

from largebatch.core import Measurement
from largebatch.diagnose._diagnosis import Diagnosis, DiagnosisCost
from largebatch.diagnose._evidence import Evidence, Row, RunRecord, Verdict
from largebatch.diagnose._explain import Inquiry, explain_gap, redo
from largebatch.diagnose._hypotheses import HYPOTHESES, judge
from largebatch.diagnose._measure import Plan
from largebatch.diagnose._runs import StoredRun, read_run
from largebatch.diagnose._sharpness_table import RunSharpness, SharpnessTable, Survey
from largebatch.diagnose._spectrum import Spectrum, spectrum
from largebatch.landscape import LinearRule, Path, Plane, linear_rule, path, plane
from largebatch.sharpness import SHARPNESS, ExpectedCost, Kind, expected_cost, sharpness, sharpness_all

__all__ = [
    "HYPOTHESES",
    "SHARPNESS",
    "Diagnosis",
    "DiagnosisCost",
    "Evidence",
    "ExpectedCost",
    "Inquiry",
    "Kind",
    "LinearRule",
    "Measurement",
    "Path",
    "Plan",
    "Plane",
    "Row",
    "RunRecord",
    "RunSharpness",
    "SharpnessTable",
    "Spectrum",
    "StoredRun",
    "Survey",
    "Verdict",
    "expected_cost",
    "explain_gap",
    "judge",
    "linear_rule",
    "path",
    "plane",
    "read_run",
    "redo",
    "sharpness",
    "sharpness_all",
    "spectrum",
]
