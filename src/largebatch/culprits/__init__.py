"""From what was seen of a training loop to a verdict: one small pure function for each known mistake."""

from largebatch.culprits._evidence import Clip, Epoch, Evidence, FirstStep, MicroBatch, Parameter, Step, Update, reduced
from largebatch.culprits._judge import CULPRITS, judge
from largebatch.culprits._verdict import CheckResult, Finding

__all__ = [
    "CULPRITS",
    "CheckResult",
    "Clip",
    "Epoch",
    "Evidence",
    "Finding",
    "FirstStep",
    "MicroBatch",
    "Parameter",
    "Step",
    "Update",
    "judge",
    "reduced",
]
