"""Is my own training loop computing the gradient it should?"""

from largebatch.check._conformance import Conformance, ConformanceCase, conformance
from largebatch.check._judge import CULPRITS
from largebatch.check._reference import reference
from largebatch.check._run import loop
from largebatch.check._verdict import CheckResult, Finding
from largebatch.check._watch import Watch

__all__ = [
    "CULPRITS",
    "CheckResult",
    "Conformance",
    "ConformanceCase",
    "Finding",
    "Watch",
    "conformance",
    "loop",
    "reference",
]
